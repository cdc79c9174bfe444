"""Where images come from without torchvision: scikit-learn's digits, and folders of class folders."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ann2snn_distill.data.checking import listed
from ann2snn_distill.data.decoding import decoded, open_rgb, resized
from ann2snn_distill.data.splits import SMALL, FolderSplit, ImageSplit, Split, Triple

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that pretrained networks expect of large images."""

DIGITS_TEST = 360
"""Test images of digits: a fifth of the 1797."""


LEAST = 8
"""Side of the smallest images that there are, pixels; smaller ones are enlarged."""


@dataclass(frozen=True)
class Source:
    """A data set as found, before validation is carved out and the training set limited.

    `statistics` are the (mean, std) of pixels in 0..1; None: to be measured on the training images.
    `left_out`: a line for each image file that cannot be read.
    `other_images`: endings of images that are not read, and how many files have each.
    """

    name: str
    classes: tuple[str, ...]
    img_size: int
    train: Split
    val: Split | None
    test: Split
    mirror_safe: bool = True
    statistics: tuple[Triple, Triple] | None = None
    left_out: tuple[str, ...] = ()
    other_images: tuple[tuple[str, int], ...] = ()


def read_digits(img_size: int | None) -> Source:
    """scikit-learn's 1797 scans of digits, 8 x 8 in 17 greys, enlarged to `img_size` (16) pixels."""
    # scikit-learn takes a second to import, and only digits needs it
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    size = img_size or 16
    images_NHW, labels_N = load_digits(return_X_y=True)
    grey_N1HW = torch.from_numpy(images_NHW * (255 / 16)).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    whole = ImageSplit(resized(grey_N1HW, size).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels_N).long())
    # random_state is part of the data set's definition, not of a run: the test images never change
    train, test = train_test_split(range(len(whole)), test_size=DIGITS_TEST, stratify=labels_N, random_state=0)
    return Source(
        "digits",
        tuple("0123456789"),
        size,
        whole.take(torch.tensor(sorted(train))),
        None,
        whole.take(torch.tensor(sorted(test))),
        mirror_safe=False,
    )


def read_folder(root: Path, img_size: int | None, *, skip_bad: bool = False) -> Source:
    """The data set in the folder `root`: decoded where images are small, listed where they are not.

    Without `img_size`, images of 8 to 64 px keep their size, smaller ones become 8 px and larger ones become 224 px.
    With `skip_bad`, images that cannot be read are left out.

    Raises:
        BadInputError: see `listed`; or an image cannot be read.
    """
    listing, left_out = listed(root, skip_bad=skip_bad)
    size = img_size or _native_size(listing.train) or 224
    if size > SMALL:
        return Source(
            root.resolve().name,
            listing.classes,
            size,
            listing.train,
            listing.val,
            listing.test,
            statistics=IMAGENET,
            left_out=left_out,
            other_images=listing.other_images,
        )
    return Source(
        root.resolve().name,
        listing.classes,
        size,
        decoded(listing.train, size),
        None if listing.val is None else decoded(listing.val, size),
        decoded(listing.test, size),
        left_out=left_out,
        other_images=listing.other_images,
    )


def _native_size(split: FolderSplit) -> int | None:
    """The longest side among the first images of up to eight classes, 8 px at least, if all are small."""
    first = {label: path for path, label in zip(reversed(split.paths), reversed(split.labels), strict=True)}
    side = max(max(open_rgb(first[label]).size) for label in sorted(first)[:8])
    return max(side, LEAST) if side <= SMALL else None
