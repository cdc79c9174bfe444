"""Data sets by name or folder: one call from what the user typed to splits ready for batches."""

import difflib
import os
from pathlib import Path

import torch

from ann2snn_distill.data.decoding import cache_dir
from ann2snn_distill.data.known import KNOWN, read_known
from ann2snn_distill.data.sources import Source, read_digits, read_folder
from ann2snn_distill.data.splits import (
    Dataset,
    FolderSplit,
    ImageSplit,
    Split,
    Triple,
    carve,
    fingerprint,
    limited,
)
from ann2snn_distill.errors import UsageError

__all__ = ["NAMES", "Dataset", "FolderSplit", "ImageSplit", "Split", "cache_dir", "load_dataset"]

NAMES = ("digits", *KNOWN)
"""The data sets known by name."""


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    img_size: int | None = None,
    val_split: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    download: bool = False,
    skip_bad_images: bool = False,
) -> Dataset:
    """The data set `name`: one of `NAMES`, or a folder with train/ and val/ or test/ of class folders.

    Args:
        name: a known name goes before a folder of that name; `./cifar10` means the folder.
        data_dir: where known data lie (default: data/ in the cache).
        img_size: side of the images, pixels (default: native up to 64, otherwise 224).
        val_split: share of the training images held out for tuning, stratified, 0..1.
        limit: the first so many training images after a seeded shuffle and after `val_split`.
        seed: of the held-out share and of the shuffle; the test images never depend on it.
        download: fetch what torchvision knows and the disk lacks.
        skip_bad_images: leave out the image files of a folder that cannot be read.

    Raises:
        UsageError: the name is unknown, or `val_split` or `limit` do not fit the data.
        BadInputError: data are missing, damaged, or laid out in another way.
    """
    source = _read(name, data_dir=data_dir, img_size=img_size, download=download, skip_bad=skip_bad_images)
    train, val = source.train, source.val
    if val_split:
        if val is not None:
            raise UsageError(f"{name} has a val/ folder of its own; leave --val-split out")
        train, val = carve(train, val_split, seed=seed)
    if limit is not None:
        train = limited(train, limit, seed=seed)
    mean, std = source.statistics or _measured(train)
    return Dataset(
        name=source.name,
        classes=source.classes,
        img_size=source.img_size,
        mean=mean,
        std=std,
        train=train,
        val=val,
        test=source.test,
        fingerprint=fingerprint(source.name, source.classes, source.img_size, train),
        mirror_safe=source.mirror_safe,
        left_out=source.left_out,
        other_images=source.other_images,
    )


def _read(name: str, *, data_dir: Path | None, img_size: int | None, download: bool, skip_bad: bool) -> Source:
    if name == "digits":
        return read_digits(img_size)
    if name in KNOWN:
        root = data_dir or cache_dir() / "data"
        return read_known(name, data_dir=root, img_size=img_size, download=download, skip_bad=skip_bad)
    folder = Path(name)
    if os.sep in name or "/" in name or folder.is_dir():
        return read_folder(folder, img_size, skip_bad=skip_bad)
    near = difflib.get_close_matches(name.lower(), NAMES)
    guess = f"; did you mean {' or '.join(near)}? Known" if near else "; known"
    raise UsageError(f'unknown data set "{name}"{guess} are {", ".join(NAMES)}, or give the path of a folder')


def _measured(train: Split) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel, pixels in 0..1, exact from the histogram of values."""
    if isinstance(train, FolderSplit):
        raise TypeError("streamed images are normalised with fixed statistics")
    value_256 = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel_NHW in train.images_NCHW.unbind(1):
        share_256 = torch.bincount(channel_NHW.flatten(), minlength=256).double() / channel_NHW.numel()
        mean = float(share_256 @ value_256)
        variance = float(share_256 @ (value_256 - mean) ** 2)
        means.append(mean)
        stds.append(max(variance**0.5, 1 / 255))  # a constant channel has no spread to divide by
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
