"""Large images: decoded and augmented by worker processes, normalised on the device.

Shapes: B images, C = 3 channels, S x S pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import closing

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ann2snn_distill.data.augment import Augmentation, cutout
from ann2snn_distill.data.inputs import Inputs
from ann2snn_distill.data.seeding import stream, stream_seed
from ann2snn_distill.data.splits import FolderSplit
from ann2snn_distill.data.workers import Draw, Workers

CENTRE = 0.875
"""Share of the shorter side that the test crop shows, as in torchvision's and timm's evaluations."""

_POLICIES: dict[str, Callable[[], Callable[[Image.Image], Image.Image]]] = {
    "cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "rand": v2.RandAugment,
    "trivial": v2.TrivialAugmentWide,
}


class StreamedBatches:
    """Training batches of images decoded by workers; see `train_batches`."""

    def __init__(
        self,
        split: FolderSplit,
        *,
        classes: int,
        img_size: int,
        inputs: Inputs,
        batch_size: int,
        augmentation: Augmentation,
        device: torch.device,
        seed: int,
        workers: int,
    ) -> None:
        self.batch_size = batch_size
        self.steps_per_epoch = len(split) // batch_size
        self._split, self._seed = split, seed
        self._workers = Workers(_train_transform(img_size, augmentation), workers=workers, device=device)
        self._classes, self._inputs, self._augmentation = classes, inputs, augmentation

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `epoch` from `start` on, which depend on nothing but the data, the settings and the seed."""
        for step, (images, labels) in enumerate(self._workers.decoded(self._drawn(epoch, start)), start):
            erasing, mixing = (stream(self._seed, epoch, purpose, step) for purpose in ("cutout", "mix"))
            yield self._inputs.train(
                cutout(images, self._augmentation.cutout, erasing),
                labels,
                classes=self._classes,
                augmentation=self._augmentation.in_epoch(epoch),
                generator=mixing,
            )

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def _drawn(self, epoch: int, start: int) -> Iterator[list[Draw]]:
        paths, labels = self._split.paths, self._split.labels
        order = torch.randperm(len(paths), generator=stream(self._seed, epoch, "order"))
        for step in range(start, self.steps_per_epoch):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
            yield [Draw(paths[index], labels[index], stream_seed(self._seed, epoch, index)) for index in indices]


class StreamedTestBatches:
    """Test images in order, decoded by workers; see `test_batches`."""

    def __init__(
        self,
        split: FolderSplit,
        *,
        img_size: int,
        inputs: Inputs,
        batch_size: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self._shown = v2.Compose(
            [
                v2.Resize(int(img_size / CENTRE), interpolation=v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(img_size),
            ]
        )
        self._split, self._inputs, self._batch_size = split, inputs, batch_size
        self._device, self._workers = device, workers

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = [Draw(path, label, 0) for path, label in zip(self._split.paths, self._split.labels, strict=True)]
        batches = [draws[start : start + self._batch_size] for start in range(0, len(draws), self._batch_size)]
        workers = Workers(self._shown, workers=min(self._workers, len(batches)), device=self._device)
        with closing(workers):
            for images, labels in workers.decoded(batches):
                yield self._inputs.test(images), labels


def _train_transform(img_size: int, augmentation: Augmentation) -> Callable[[Image.Image], Image.Image]:
    steps = [v2.RandomResizedCrop(img_size, interpolation=v2.InterpolationMode.BICUBIC)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.policy != "none":
        steps.append(_POLICIES[augmentation.policy]())
    transform: Callable[[Image.Image], Image.Image] = v2.Compose(steps)
    return transform
