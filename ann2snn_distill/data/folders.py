"""A folder of class folders, as a data set: train/ and val/ or test/, each with one folder a class."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ann2snn_distill.data.splits import FolderSplit
from ann2snn_distill.errors import BadInputError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""What counts as an image; other files are left alone, as by torchvision's ImageFolder."""

_OTHER_IMAGES = frozenset({".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".tga"})
"""Images, too, whose owner may expect them to be read."""

_LAYOUT = "a data folder has train/ and val/ or test/, each with one folder of images a class"


@dataclass(frozen=True)
class Listing:
    """The files of a data folder; classes in alphabetical order, their index is the label.

    `other_images`: endings of images that are left alone, and how many files have each.
    """

    classes: tuple[str, ...]
    train: FolderSplit
    val: FolderSplit | None
    test: FolderSplit
    other_images: tuple[tuple[str, int], ...] = ()


def list_folder(root: Path) -> Listing:
    """List the images under `root`; with both val/ and test/, test reports and val tunes.

    Raises:
        BadInputError: the folder, train/ or both of val/ and test/ are missing, a class is empty, the
            classes differ between splits, or the disk refuses to be read.
    """
    if not root.is_dir():
        raise BadInputError(f"there is no folder {root}; {_LAYOUT}")
    if not (root / "train").is_dir():
        raise BadInputError(f"{root} has no train/ folder; {_LAYOUT}")
    held = [name for name in ("test", "val") if (root / name).is_dir()]
    if not held:
        raise BadInputError(f"{root} has neither val/ nor test/; {_LAYOUT}")
    classes = _class_names(root / "train")
    if len(classes) == 1:
        raise BadInputError(f"{root} has one class, {classes[0]}, and nothing to tell it from; add another class")
    for name in held:
        _refuse_other_classes(root, classes, name)
    others: Counter[str] = Counter()
    train = _list_split(root / "train", classes, others)
    val = _list_split(root / "val", classes, others) if len(held) == 2 else None
    test = _list_split(root / held[0], classes, others)
    return Listing(classes, train, val, test, tuple(sorted(others.items())))


def has_train(root: Path) -> bool:
    """Does `root` hold a train/ folder?"""
    return (root / "train").is_dir()


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        _refuse_unreadable(error)
    if not names:
        raise BadInputError(f"{folder} holds no class folders; {_LAYOUT}")
    return tuple(names)


def _refuse_other_classes(root: Path, classes: tuple[str, ...], name: str) -> None:
    train, other = set(classes), set(_class_names(root / name))
    if train != other:
        parts = [
            f"only in {split}/: {_some(names)}"
            for split, names in (("train", train - other), (name, other - train))
            if names
        ]
        raise BadInputError(f"{root}: the classes differ, {'; '.join(parts)}; make the class folders the same")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _list_split(folder: Path, classes: tuple[str, ...], others: Counter[str]) -> FolderSplit:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_under(folder / name, others)
        if not found:
            raise BadInputError(
                f"{folder / name} holds no images ({' '.join(sorted(EXTENSIONS))}); "
                "add some, or remove the class from every split"
            )
        paths += found
        labels += [label] * len(found)
    return FolderSplit(tuple(paths), tuple(labels))


def _images_under(folder: Path, others: Counter[str]) -> list[Path]:
    """The images in alphabetical order; those that are not read are added to `others`, by their ending."""
    found = []
    for parent, _, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        for name in names:
            ending = "" if name.startswith(".") else os.path.splitext(name)[1].lower()
            if ending in EXTENSIONS:
                found.append(Path(parent, name))
            elif ending in _OTHER_IMAGES:
                others[ending] += 1
    return sorted(found)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise BadInputError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
