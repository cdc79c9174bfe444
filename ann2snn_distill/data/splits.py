"""The parts of a data set, and how a part is cut: stratified validation, the first N after a shuffle.

Shapes: N images, C = 3 channels, H x W pixels.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ann2snn_distill.data.seeding import stream
from ann2snn_distill.errors import UsageError

SMALL = 64
"""Largest side, in pixels, of images that are decoded once and stay on the device."""

_NAMED = 20
"""Files named in a warning; further ones are counted."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSplit:
    """Decoded images that fit on the device: `images_NCHW` uint8 RGB on the CPU, `labels_N` int64."""

    images_NCHW: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, index_M: Tensor) -> "ImageSplit":
        """The M images at `index_M` (int64), in that order."""
        return ImageSplit(self.images_NCHW[index_M], self.labels_N[index_M])


@dataclass(frozen=True)
class FolderSplit:
    """Image files that are decoded as they are needed, and the class index of each."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels_N(self) -> Tensor:  # noqa: N802  (a shape suffix)
        """Class indices, int64."""
        return torch.tensor(self.labels, dtype=torch.int64)

    def take(self, index_M: Tensor) -> "FolderSplit":
        """The M files at `index_M` (int64), in that order."""
        chosen: list[int] = index_M.tolist()
        return FolderSplit(tuple(self.paths[i] for i in chosen), tuple(self.labels[i] for i in chosen))


Split = ImageSplit | FolderSplit


@dataclass(frozen=True)
class Dataset:
    """A data set ready for batches.

    `mean` and `std` are per channel, of pixels in 0..1; `val` tunes, `test` reports.
    `fingerprint` names what is trained on: equal fingerprints, equal images and labels in equal order.
    `mirror_safe`: a mirrored image still belongs to its class (no for digits and letters).
    `left_out`: a line for each image file that cannot be read and was left out.
    `other_images`: endings of images that are not read, and how many files have each.
    """

    name: str
    classes: tuple[str, ...]
    img_size: int
    mean: Triple
    std: Triple
    train: Split
    val: Split | None
    test: Split
    fingerprint: str
    mirror_safe: bool
    left_out: tuple[str, ...] = ()
    other_images: tuple[tuple[str, int], ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know of the data: sentences that count and name the files left out, or nothing."""
        return (*self._unreadable(), *self._unread())

    def _unreadable(self) -> Iterator[str]:
        if self.left_out:
            count, named = len(self.left_out), "; ".join(self.left_out[:_NAMED])
            files = "1 image file" if count == 1 else f"{count} image files"
            more = f"; and {count - _NAMED} more" if count > _NAMED else ""
            yield f"{files} of {self.name} cannot be read and were left out: {named}{more}"

    def _unread(self) -> Iterator[str]:
        if self.other_images:
            named = ", ".join(f"{count} {ending}" for ending, count in self.other_images)
            yield f"images of {self.name} in formats that are not read were left out: {named}; save them as PNG or JPEG"


def carve(train: Split, share: float, *, seed: int) -> tuple[Split, Split]:
    """Split `train` into what stays and a stratified `share` (0..1) held out, both in their old order.

    Raises:
        UsageError: the share holds out nothing, or leaves nothing to train on.
    """
    labels_N = train.labels_N
    shuffled_N = torch.randperm(len(train), generator=stream(seed, "val-split"))
    held_N = torch.zeros(len(train), dtype=torch.bool)
    for label in set(labels_N.tolist()):
        members = shuffled_N[labels_N[shuffled_N] == label]
        held_N[members[: round(len(members) * share)]] = True
    if not held_N.any() or held_N.all():
        raise UsageError(
            f"--val-split {share} would hold out {int(held_N.sum())} of {len(train)} training images; "
            "choose a share that leaves images on both sides"
        )
    return train.take(torch.nonzero(~held_N)[:, 0]), train.take(torch.nonzero(held_N)[:, 0])


def limited(train: Split, limit: int, *, seed: int) -> Split:
    """The first `limit` images of `train` after a seeded shuffle.

    Raises:
        UsageError: there are fewer images than that.
    """
    if limit > len(train):
        raise UsageError(
            f"--limit {limit} asks for more than the {len(train)} training images; "
            f"choose {len(train)} or fewer, or leave it out"
        )
    return train.take(torch.randperm(len(train), generator=stream(seed, "limit"))[:limit])


def spread(split: Split, count: int) -> Split:
    """At most `count` images of `split`, evenly spaced: data sets are sorted by class, and so all classes are in it."""
    if count >= len(split):
        return split
    return split.take(torch.arange(count) * len(split) // count)


def fingerprint(name: str, classes: tuple[str, ...], img_size: int, train: Split) -> str:
    """16 hexadecimal digits that change with any training image, label, class, order or size.

    Files are known by split, class, name and size, wherever the folder lies; decoded images by their bytes.
    Test images are not in it: one that cannot be read may be mended when the training is over.
    """
    digest = hashlib.blake2b(repr((name, classes, img_size)).encode(), digest_size=8)
    if isinstance(train, ImageSplit):
        digest.update(repr(tuple(train.images_NCHW.shape)).encode())
        digest.update(train.images_NCHW.contiguous().numpy().data)
        digest.update(train.labels_N.contiguous().numpy().data)
    else:
        for path, label in zip(train.paths, train.labels, strict=True):
            digest.update(repr((path.parts[-3:], path.stat().st_size, label)).encode())
    return digest.hexdigest()


def images_fingerprint(split: Split) -> str:
    """16 hexadecimal digits that change with any image of a split or its label, but not with their order.

    Files are known by class, name and size, wherever the folder lies; decoded images by their bytes.
    """
    names: list[object]
    if isinstance(split, ImageSplit):
        rows = split.images_NCHW.flatten(1).contiguous().numpy()
        names = [hashlib.blake2b(row.data, digest_size=16).hexdigest() for row in rows]
    else:
        names = [(path.parts[-2:], path.stat().st_size) for path in split.paths]
    keys = sorted(repr(key) for key in zip(split.labels_N.tolist(), names, strict=True))
    return hashlib.blake2b(repr(keys).encode(), digest_size=8).hexdigest()
