"""Small images: on the device once, augmented an epoch at a time, sliced into batches without a sync.

The manner of airbench (Jordan 2024, arXiv:2404.00498). Shapes: N images, B a batch, C = 3, H x W pixels.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from ann2snn_distill.data.augment import Augmentation, cutout, random_crop, random_flip
from ann2snn_distill.data.autoaugment import auto_augment
from ann2snn_distill.data.inputs import Inputs
from ann2snn_distill.data.seeding import stream
from ann2snn_distill.data.splits import ImageSplit
from ann2snn_distill.errors import UsageError

CHUNK_BYTES = 256 * 2**20
"""Images augmented at once, as uint8: all of CIFAR's 147 MiB; larger sets go chunk by chunk."""


class ResidentBatches:
    """Training batches of images that stay on the device; see `train_batches`."""

    def __init__(
        self,
        split: ImageSplit,
        *,
        classes: int,
        inputs: Inputs,
        batch_size: int,
        augmentation: Augmentation,
        device: torch.device,
        seed: int,
    ) -> None:
        if augmentation.policy not in ("none", "cifar10"):
            raise UsageError(
                f"--aa {augmentation.policy} is for streamed images, and these stay on the device; "
                "choose --aa none or --aa cifar10"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(split) // batch_size
        self._images_NCHW = split.images_NCHW.to(device)
        self._labels_N = split.labels_N.to(device)
        self._classes, self._inputs, self._augmentation, self._seed = classes, inputs, augmentation, seed

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `epoch` from `start` on, which depend on nothing but the data, the settings and the seed."""
        order_N = torch.randperm(len(self._labels_N), generator=stream(self._seed, epoch, "order"))
        order_N = order_N[: self.steps_per_epoch * self.batch_size].to(self._labels_N.device)
        steps = self._steps_a_chunk()
        for chunk, index_M in enumerate(torch.split(order_N, steps * self.batch_size)):
            if start < (chunk + 1) * steps:
                yield from self._chunk(epoch, chunk * steps, index_M, max(start - chunk * steps, 0))

    def close(self) -> None:
        """There is nothing to end."""

    def _chunk(self, epoch: int, first: int, index_M: Tensor, skipped: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the chunk whose first is step `first` of the epoch, but for the `skipped` first of them."""
        augmenting = stream(self._seed, epoch, "augment", first)
        images_MCHW = augmented(self._images_NCHW[index_M], self._augmentation, augmenting)
        batches = zip(
            torch.split(images_MCHW, self.batch_size)[skipped:],
            torch.split(self._labels_N[index_M], self.batch_size)[skipped:],
            strict=True,
        )
        for step, (images_BCHW, labels_B) in enumerate(batches, first + skipped):
            yield self._inputs.train(
                images_BCHW,
                labels_B,
                classes=self._classes,
                augmentation=self._augmentation.in_epoch(epoch),
                generator=stream(self._seed, epoch, "mix", step),
            )

    def _steps_a_chunk(self) -> int:
        """Batches whose images are augmented at once: up to `CHUNK_BYTES`."""
        return max(1, CHUNK_BYTES // (self.batch_size * self._images_NCHW[0].numel()))


class ResidentTestBatches:
    """Test images that stay on the device, in order; see `test_batches`."""

    def __init__(self, split: ImageSplit, *, inputs: Inputs, batch_size: int, device: torch.device) -> None:
        self._images_NCHW = split.images_NCHW.to(device)
        self._labels_N = split.labels_N.to(device)
        self._inputs, self._batch_size = inputs, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = zip(
            torch.split(self._images_NCHW, self._batch_size),
            torch.split(self._labels_N, self._batch_size),
            strict=True,
        )
        for images_BCHW, labels_B in batches:
            yield self._inputs.test(images_BCHW), labels_B


def augmented(images_NCHW: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """uint8 images after crop, flip, policy and cutout, in this order."""
    if augmentation.crop_padding:
        images_NCHW = random_crop(images_NCHW, augmentation.crop_padding, generator)
    if augmentation.flip:
        images_NCHW = random_flip(images_NCHW, generator)
    if augmentation.policy == "cifar10":
        images_NCHW = auto_augment(images_NCHW, generator)
    return cutout(images_NCHW, augmentation.cutout, generator)
