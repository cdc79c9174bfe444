"""What resolved settings say of a training: augmentation, execution, images a step, and when states are written."""

import torch

from ann2snn_distill.config import BenchSettings, FitSettings
from ann2snn_distill.data.batches import Augmentation
from ann2snn_distill.data.datasets import Dataset, ImageSplit
from ann2snn_distill.recipes import CROP_PADDING
from ann2snn_distill.training.fit import Execution, Interval
from ann2snn_distill.training.step import AUTOCAST_DTYPES


def augmentation_of(settings: FitSettings, dataset: Dataset) -> Augmentation:
    """Return the augmentation of resolved settings; streamed images have no padded crop, but a random resized one."""
    resident = isinstance(dataset.train, ImageSplit)
    return Augmentation(
        flip=dataset.mirror_safe,
        crop_padding=round(CROP_PADDING * dataset.img_size) if resident else 0,
        policy=settings.aa or "none",
        cutout=settings.cutout or 0,
        mixup=settings.mixup or 0.0,
        cutmix=settings.cutmix or 0.0,
        mixup_prob=1.0 if settings.mixup_prob is None else settings.mixup_prob,
        mixup_off_epoch=settings.mixup_off_epoch,
        smoothing=settings.smoothing,
    )


def execution_of(settings: FitSettings | BenchSettings, device: torch.device) -> Execution:
    """Return how steps of resolved settings run."""
    return Execution(
        device,
        amp=bool(settings.amp),
        compiled=bool(settings.torchcompile),
        captured=bool(settings.cuda_graph),
        pieces=settings.grad_accum_steps if isinstance(settings, FitSettings) else 1,
        dtype=AUTOCAST_DTYPES[settings.amp_dtype],
    )


def piece_of(settings: FitSettings) -> int:
    """Return the images that resolved settings take at once."""
    assert isinstance(settings.batch_size, int)
    return settings.batch_size


def images_a_step(settings: FitSettings) -> int:
    """Return the images whose gradients make one update, by resolved settings."""
    return piece_of(settings) * settings.grad_accum_steps


def interval_of(settings: FitSettings) -> Interval:
    """Return how often states are written: `2` is epochs, `5m` is minutes."""
    number = settings.checkpoint_interval.removesuffix("m")
    if number != settings.checkpoint_interval:
        return Interval(minutes=float(number))
    return Interval(epochs=int(number))
