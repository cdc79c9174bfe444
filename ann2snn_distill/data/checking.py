"""Image files that cannot be read: found before a run, and left out of it by name."""

import json
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from ann2snn_distill.data.decoding import DECODING_VERSION, UnreadableImageError, cache_dir, listing_digest, open_rgb
from ann2snn_distill.data.folders import Listing, list_folder
from ann2snn_distill.data.splits import FolderSplit
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import write_text

_CHUNK = 256
"""Files that a thread checks at once."""


def listed(root: Path, *, skip_bad: bool) -> tuple[Listing, tuple[str, ...]]:
    """List the images under `root`; with `skip_bad` without those that cannot be read, and a line for each of them.

    Raises:
        BadInputError: see `list_folder`; or a class of a split has no image left.
    """
    listing = list_folder(root)
    return _readable(listing) if skip_bad else (listing, ())


def _readable(listing: Listing) -> tuple[Listing, tuple[str, ...]]:
    """Decode every file once, and leave out those that cannot be read; the cache keeps what was found."""
    left_out: list[str] = []

    def checked(split: FolderSplit) -> FolderSplit:
        bad = _bad(split)
        left_out.extend(f"{split.paths[index]} ({reason})" for index, reason in bad.items())
        return _without(split, bad)

    train, val = checked(listing.train), None if listing.val is None else checked(listing.val)
    return replace(listing, train=train, val=val, test=checked(listing.test)), tuple(left_out)


def _without(split: FolderSplit, bad: Container[int]) -> FolderSplit:
    kept = split.take(torch.tensor([index for index in range(len(split)) if index not in bad]).long())
    for label in sorted(set(split.labels) - set(kept.labels)):
        folder = split.paths[split.labels.index(label)].parent
        raise BadInputError(f"no image in {folder} can be read; add some, or remove the class from every split")
    return kept


def _bad(split: FolderSplit) -> dict[int, str]:
    """The indices of the files that cannot be read, and why."""
    cached = cache_dir() / "checked" / f"{listing_digest(split)}-{DECODING_VERSION}.json"
    with suppress(OSError, ValueError, AttributeError):
        return {int(index): str(reason) for index, reason in json.loads(cached.read_text(encoding="utf-8")).items()}
    with ThreadPoolExecutor() as pool:
        starts = range(0, len(split), _CHUNK)
        found = dict(pair for pairs in pool.map(lambda start: list(_checked(split, start)), starts) for pair in pairs)
    with suppress(OSError, BadInputError):  # a cache that cannot be written costs only the time to check again
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_text(cached, json.dumps(found))
    return found


def _checked(split: FolderSplit, start: int) -> Iterator[tuple[int, str]]:
    for index, path in enumerate(split.paths[start : start + _CHUNK], start):
        try:
            open_rgb(path)
        except UnreadableImageError as error:
            yield index, error.reason
