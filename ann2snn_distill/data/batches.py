"""Batches on the device, from small images that stay there or larger ones that are streamed.

Everything random about a batch comes from streams named by (seed, epoch, purpose, step): a run resumed at any
step needs no saved state. Shapes: B images, C = 3 channels, S x S pixels, K classes.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from ann2snn_distill.data.augment import Augmentation
from ann2snn_distill.data.inputs import Inputs
from ann2snn_distill.data.resident import ResidentBatches, ResidentTestBatches
from ann2snn_distill.data.splits import ImageSplit, Split, Triple
from ann2snn_distill.data.streaming import StreamedBatches, StreamedTestBatches
from ann2snn_distill.errors import BadInputError

__all__ = ["Augmentation", "ClosableBatches", "TrainBatches", "device_bytes", "test_batches", "train_batches"]


class TrainBatches(Protocol):
    """Training batches, epoch by epoch, in any order of epochs and from any step of one."""

    batch_size: int
    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, S, S) float32, normalised, and target probabilities (B, K) float32, from step `start` on.

        Both on the device; B is always `batch_size`, an incomplete last batch is dropped.
        """
        ...


class ClosableBatches(TrainBatches, Protocol):
    """Training batches behind which there may be processes."""

    def close(self) -> None:
        """End the processes; a later pass would start others."""
        ...


def train_batches(
    split: Split,
    *,
    classes: int,
    img_size: int,
    mean: Triple,
    std: Triple,
    batch_size: int,
    augmentation: Augmentation,
    device: torch.device,
    seed: int,
    workers: int = 4,
    channels_last: bool = False,
) -> ClosableBatches:
    """Shuffled, augmented batches of `split`; `workers` processes decode what is streamed.

    Raises:
        BadInputError: the split is smaller than a batch; while iterating, an image cannot be read.
        UsageError: the policy is not for images that stay on the device.
    """
    if batch_size > len(split):
        raise BadInputError(
            f"a batch of {batch_size} is larger than the {len(split)} training images; "
            f"choose --batch-size {len(split)} or less"
        )
    inputs = Inputs(mean, std, device=device, channels_last=channels_last)
    if isinstance(split, ImageSplit):
        return ResidentBatches(
            split,
            classes=classes,
            inputs=inputs,
            batch_size=batch_size,
            augmentation=augmentation,
            device=device,
            seed=seed,
        )
    return StreamedBatches(
        split,
        classes=classes,
        img_size=img_size,
        inputs=inputs,
        batch_size=batch_size,
        augmentation=augmentation,
        device=device,
        seed=seed,
        workers=workers,
    )


def device_bytes(split: Split) -> int:
    """Return what training on `split` keeps on the device: small images, as they are and augmented; else nothing."""
    return 2 * split.images_NCHW.numel() if isinstance(split, ImageSplit) else 0


def test_batches(
    split: Split,
    *,
    img_size: int,
    mean: Triple,
    std: Triple,
    batch_size: int,
    device: torch.device,
    workers: int = 4,  # noqa: PT028
    channels_last: bool = False,  # noqa: PT028
) -> Iterable[tuple[Tensor, Tensor]]:
    """Images (B, C, S, S) float32, normalised, and labels (B) int64, in the split's order, on the device.

    The last batch may be short; the result can be iterated again and again.

    Raises:
        BadInputError: while iterating, an image cannot be read.
    """
    inputs = Inputs(mean, std, device=device, channels_last=channels_last)
    if isinstance(split, ImageSplit):
        return ResidentTestBatches(split, inputs=inputs, batch_size=batch_size, device=device)
    return StreamedTestBatches(
        split, img_size=img_size, inputs=inputs, batch_size=batch_size, device=device, workers=workers
    )


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest would take the name for a test
