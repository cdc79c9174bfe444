"""`bench --dataset`: how fast training batches come, with the recipe's augmentation and nothing that trains on them."""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice

import torch

from ann2snn_distill.config import BenchSettings, FitSettings
from ann2snn_distill.data.batches import ClosableBatches, TrainBatches, train_batches
from ann2snn_distill.data.datasets import Dataset, load_dataset
from ann2snn_distill.data.splits import FolderSplit
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.pipeline.fitting import augmentation_of
from ann2snn_distill.recipes import recipe_for, resolved_fit
from ann2snn_distill.reporting.benchmark import DataTime

_LONGEST = 30.0
"""Seconds after which an epoch is broken off: a rate needs no more."""


def bench_data(settings: BenchSettings) -> Dataset | None:
    """Return the data whose batches are to be timed, if any.

    Raises:
        SnnDistillError: the data cannot be had, or are fewer than a batch.
    """
    if settings.dataset is None:
        return None
    data = load_dataset(settings.dataset, data_dir=settings.data_dir, img_size=settings.img_size)
    largest = max(settings.batch_sizes)
    if largest > len(data.train):
        raise BadInputError(
            f"a batch of {largest} is larger than the {len(data.train)} training images; "
            f"choose --batch-size {len(data.train)} or less"
        )
    return data


def data_times(settings: BenchSettings, data: Dataset | None, device: torch.device) -> Iterator[DataTime]:
    """Yield how fast batches come, for every batch size; nothing without data.

    Args:
        settings: resolved.
        data: as `bench_data` gives them.
        device: where the batches are needed.
    """
    if data is not None:
        for batch_size in settings.batch_sizes:
            with closing(_batches(settings, data, batch_size, device)) as batches:
                yield _timed(batches, settings, data, device)


def _batches(settings: BenchSettings, data: Dataset, batch_size: int, device: torch.device) -> ClosableBatches:
    recipe = recipe_for(img_size=data.img_size, images=len(data.train))
    cuda = device.type == "cuda"
    fit = FitSettings().model_copy(update=resolved_fit(FitSettings(), recipe, img_size=data.img_size, cuda=cuda))
    return train_batches(
        data.train,
        classes=len(data.classes),
        img_size=data.img_size,
        mean=data.mean,
        std=data.std,
        batch_size=batch_size,
        augmentation=augmentation_of(fit, data),
        device=device,
        seed=0,
        workers=settings.workers,
        channels_last=cuda,
    )


def _timed(batches: TrainBatches, settings: BenchSettings, data: Dataset, device: torch.device) -> DataTime:
    """Time an epoch's number of batches, or some seconds of them, after as many: the first pay for what is made once.

    They are of one stream, so that an epoch that is broken off leaves no work behind for the next.
    """
    stream = chain(batches.epoch(0), batches.epoch(1))
    _drawn(islice(stream, batches.steps_per_epoch), device)
    seconds, count = _drawn(islice(stream, batches.steps_per_epoch), device)
    images = count * batches.batch_size
    streamed = isinstance(data.train, FolderSplit)
    return DataTime(
        dataset=data.name,
        batch_size=batches.batch_size,
        images=images,
        images_per_second=images / seconds,
        workers=settings.workers if streamed else None,
    )


def _drawn(batches: Iterator[object], device: torch.device) -> tuple[float, int]:
    """Return the seconds and number of batches, all of them on the device."""
    started, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
        if time.perf_counter() - started > _LONGEST:
            break
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, count
