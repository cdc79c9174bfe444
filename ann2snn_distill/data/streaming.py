"""Large images: decoded and augmented by worker processes, normalised on the device.

Shapes: B images, C = 3 channels, S x S pixels.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ann2snn_distill.data.augment import Augmentation, cutout
from ann2snn_distill.data.decoding import open_rgb, to_tensor
from ann2snn_distill.data.inputs import Inputs
from ann2snn_distill.data.seeding import stream, stream_seed
from ann2snn_distill.data.splits import FolderSplit
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.processes import usable_cpus

CENTRE = 0.875
"""Share of the shorter side that the test crop shows, as in torchvision's and timm's evaluations."""

_POLICIES: dict[str, Callable[[], Callable[[Image.Image], Image.Image]]] = {
    "cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "rand": v2.RandAugment,
    "trivial": v2.TrivialAugmentWide,
}

Draw = tuple[int, int]
"""Index of an image and the seed of everything random about it, so that no worker holds any state."""

_Batch = tuple[Tensor, Tensor] | BadInputError


@dataclass(frozen=True)
class _Images:
    """What the workers read: the image and label of a draw, or the error, which travels as a value."""

    split: FolderSplit
    transform: Callable[[Image.Image], Image.Image]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | BadInputError:
        index, seed = draw
        try:
            image = open_rgb(self.split.paths[index])
        except BadInputError as error:
            return error
        # torchvision's transforms know only the global generator: lend them a seeded one, and restore it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return to_tensor(self.transform(image)), self.split.labels[index]


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
        self._images = _Images(split, _train_transform(img_size, augmentation))
        self._classes, self._inputs, self._augmentation = classes, inputs, augmentation
        self._device, self._seed, self._workers = device, seed, workers

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `epoch` from `start` on, which depend on nothing but the data, the settings and the seed."""
        order = torch.randperm(len(self._images.split), generator=stream(self._seed, epoch, "order"))
        draws = [(index, stream_seed(self._seed, epoch, index)) for index in order.tolist()]
        batches = _batches(draws[: self.steps_per_epoch * self.batch_size], self.batch_size)[start:]
        received = _received(self._images, batches, workers=self._workers, device=self._device)
        for step, (images, labels) in enumerate(received, start):
            erasing, mixing = (stream(self._seed, epoch, purpose, step) for purpose in ("cutout", "mix"))
            yield self._inputs.train(
                cutout(images, self._augmentation.cutout, erasing),
                labels,
                classes=self._classes,
                augmentation=self._augmentation.in_epoch(epoch),
                generator=mixing,
            )


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
        shown = v2.Compose(
            [
                v2.Resize(int(img_size / CENTRE), interpolation=v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(img_size),
            ]
        )
        self._images = _Images(split, shown)
        self._inputs, self._batch_size = inputs, batch_size
        self._device, self._workers = device, workers

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = [(index, 0) for index in range(len(self._images.split))]
        batches = _batches(draws, self._batch_size)
        for images, labels in _received(self._images, batches, workers=self._workers, device=self._device):
            yield self._inputs.test(images), labels


def _train_transform(img_size: int, augmentation: Augmentation) -> Callable[[Image.Image], Image.Image]:
    steps = [v2.RandomResizedCrop(img_size, interpolation=v2.InterpolationMode.BICUBIC)]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.policy != "none":
        steps.append(_POLICIES[augmentation.policy]())
    transform: Callable[[Image.Image], Image.Image] = v2.Compose(steps)
    return transform


def _batches(draws: list[Draw], batch_size: int) -> list[list[Draw]]:
    return [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]


def _received(
    images: _Images, batches: list[list[Draw]], *, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 images (B, C, S, S) and labels (B) on the device, batch by batch.

    Workers live for one pass: it then needs no state of the one before, and forking one takes 0.1 s.

    Raises:
        BadInputError: an image cannot be read, or a worker was lost.
    """
    loader: DataLoader[_Batch] = DataLoader(
        images,  # type: ignore[arg-type]  # any object that answers a draw will do
        batch_sampler=batches,
        num_workers=min(workers, usable_cpus()),  # more would only slow each other down, and torch warns
        collate_fn=_collated,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else the loader draws from the global one
    )
    try:
        for batch in loader:
            if isinstance(batch, BadInputError):
                raise batch
            images_BCHW, labels_B = batch
            yield images_BCHW.to(device, non_blocking=True), labels_B.to(device, non_blocking=True)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _lost_worker(error) from error
    except (OSError, EOFError) as error:  # images that cannot be read travel as values, so this is a broken pipe
        raise _lost_worker(error) from error


def _lost_worker(error: Exception) -> BadInputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return BadInputError(
        f"a process that decodes images was lost ({reason}); memory may have run out: lower --workers or --batch-size"
    )


def _collated(samples: list[tuple[Tensor, int] | BadInputError]) -> _Batch:
    for sample in samples:
        if isinstance(sample, BadInputError):
            return sample
    pairs = [sample for sample in samples if not isinstance(sample, BadInputError)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C is the main process's to answer; it ends the workers, which otherwise print tracebacks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
