"""The data sets that torchvision knows: read from its layout, or from class folders holding the same data.

Both layouts give the same images in the same order: by label, then by the bytes of the image.
Shapes: N images, C = 3 channels, H x W pixels.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from ann2snn_distill.data.checking import listed
from ann2snn_distill.data.decoding import decoded, resized
from ann2snn_distill.data.folders import has_train
from ann2snn_distill.data.sources import Source
from ann2snn_distill.data.splits import FolderSplit, ImageSplit, Triple
from ann2snn_distill.errors import BadInputError


@dataclass(frozen=True)
class Known:
    """How torchvision holds a data set: its reader, what lies in the root, native side in pixels, classes.

    `names` are the classes in label order, empty where the files name them. `as_folders`: that order is
    alphabetical, so class folders can hold the same data.
    """

    reader: str
    marker: str
    img_size: int
    class_count: int
    names: tuple[str, ...] = ()
    as_folders: bool = False
    mirror_safe: bool = True
    statistics: tuple[Triple, Triple] | None = None


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

KNOWN = {
    "cifar10": Known(
        "CIFAR10", "cifar-10-batches-py", 32, 10, _CIFAR10, as_folders=True, statistics=_CIFAR10_STATISTICS
    ),
    "cifar100": Known("CIFAR100", "cifar-100-python", 32, 100, as_folders=True, statistics=_CIFAR100_STATISTICS),
    "mnist": Known("MNIST", "MNIST/raw", 28, 10, mirror_safe=False),
    "fashionmnist": Known("FashionMNIST", "FashionMNIST/raw", 28, 10),
    "kmnist": Known("KMNIST", "KMNIST/raw", 28, 10, mirror_safe=False),
    "svhn": Known("SVHN", "train_32x32.mat", 32, 10, tuple("0123456789"), mirror_safe=False),
    "stl10": Known("STL10", "stl10_binary", 96, 10),
}


def read_known(name: str, *, data_dir: Path, img_size: int | None, download: bool, skip_bad: bool = False) -> Source:
    """The data set `name` of `KNOWN`, looked for in `data_dir` and, as class folders, in `data_dir/name`.

    Raises:
        BadInputError: the data are not there, damaged, of other classes, or cannot be fetched.
    """
    known = KNOWN[name]
    folder = _class_folders(name, data_dir)
    size = img_size or known.img_size
    if (data_dir / known.marker).exists() or (download and folder is None):
        classes, train, test = _from_torchvision(known, data_dir, download=download)
        return _source(name, classes, train, None, test, size=size)
    if folder is not None:
        return _from_folders(name, folder, size=size, skip_bad=skip_bad)
    layouts = "torchvision's layout" + (" and class folders" if known.as_folders else "")
    raise BadInputError(
        f"{name} is not in {data_dir} (looked for {layouts}); "
        "name its folder with --data-dir DIR, or let convert fetch it with --download"
    )


def _source(
    name: str, classes: tuple[str, ...], train: ImageSplit, val: ImageSplit | None, test: ImageSplit, *, size: int
) -> Source:
    known = KNOWN[name]
    return Source(
        name,
        classes,
        size,
        _canonical(train, size),
        None if val is None else _canonical(val, size),
        _canonical(test, size),
        mirror_safe=known.mirror_safe,
        statistics=known.statistics,
    )


def _class_folders(name: str, data_dir: Path) -> Path | None:
    if not KNOWN[name].as_folders:
        return None
    return next((root for root in (data_dir / name, data_dir) if has_train(root)), None)


def _from_folders(name: str, root: Path, *, size: int, skip_bad: bool) -> Source:
    known = KNOWN[name]
    listing, left_out = listed(root, skip_bad=skip_bad)
    if len(listing.classes) != known.class_count:
        raise BadInputError(
            f"{root} holds {len(listing.classes)} classes, but {name} has {known.class_count}; "
            f"name the folder of {name} with --data-dir, or give this folder as --dataset {root}"
        )
    if known.names and listing.classes != known.names:
        strange = ", ".join(sorted(set(listing.classes) - set(known.names))[:5])
        raise BadInputError(
            f"{root} holds class folders that {name} does not have: {strange}; "
            f"rename them to {' '.join(known.names)}, or give this folder as --dataset {root}"
        )

    def read(split: FolderSplit) -> ImageSplit:
        return decoded(split, known.img_size)

    val = None if listing.val is None else read(listing.val)
    found = _source(name, listing.classes, read(listing.train), val, read(listing.test), size=size)
    return replace(found, left_out=left_out, other_images=listing.other_images)


def _from_torchvision(
    known: Known, data_dir: Path, *, download: bool
) -> tuple[tuple[str, ...], ImageSplit, ImageSplit]:
    reader: Any = getattr(datasets, known.reader)
    try:
        if known.reader in ("SVHN", "STL10"):
            train, test = (reader(data_dir, split=part, download=download) for part in ("train", "test"))
        else:
            train, test = (reader(data_dir, train=part, download=download) for part in (True, False))
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadInputError(
            f"torchvision could not {'fetch' if download else 'read'} {known.reader} in {data_dir}: {cause}; "
            "copy the data there by hand, or delete what is damaged and use --download"
        ) from error
    names = known.names or tuple(str(name) for name in train.classes)
    return names, _arrays(train), _arrays(test)


def _arrays(dataset: Any) -> ImageSplit:
    """Images and labels as torchvision's readers hold them: (N, H, W), (N, H, W, 3) or (N, 3, H, W)."""
    images = torch.as_tensor(dataset.data)
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    if images.ndim == 3:
        images = images[:, None].expand(-1, 3, -1, -1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return ImageSplit(images.contiguous(), torch.as_tensor(labels, dtype=torch.int64))


def _canonical(split: ImageSplit, img_size: int) -> ImageSplit:
    """The split sorted by label and image bytes, at `img_size`: the same whatever layout it came from."""
    rows: Tensor = split.images_NCHW.flatten(1)
    digests = [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows.numpy()]
    keys = list(zip(split.labels_N.tolist(), digests, strict=True))
    ordered = split.take(torch.tensor(sorted(range(len(keys)), key=keys.__getitem__)))
    return ImageSplit(resized(ordered.images_NCHW, img_size), ordered.labels_N)
