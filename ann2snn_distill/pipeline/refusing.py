"""Settings that cannot work together, or with the data: refused before the first step."""

import torch

from ann2snn_distill.config import ConvertSettings, FitSettings
from ann2snn_distill.data.batches import train_batches
from ann2snn_distill.data.datasets import Dataset
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.pipeline.fitting import augmentation_of, images_a_step


def check_fit(settings: FitSettings, dataset: Dataset) -> None:
    """See that resolved settings can train on a data set.

    Raises:
        BadInputError: a step takes more images than there are.
        UsageError: a value that this release, or this kind of data, does not have.
    """
    images, pieces = len(dataset.train), settings.grad_accum_steps
    if images_a_step(settings) > images:
        times = f" times {pieces} --grad-accum-steps" if pieces > 1 else ""
        raise BadInputError(
            f"a batch of {settings.batch_size}{times} is larger than the {images} training images; "
            f"choose --batch-size {max(images // pieces, 1)} or less"
        )
    train_batches(  # made and dropped: it refuses the policies that the data cannot have
        dataset.train,
        classes=len(dataset.classes),
        img_size=dataset.img_size,
        mean=dataset.mean,
        std=dataset.std,
        batch_size=images_a_step(settings),
        augmentation=augmentation_of(settings, dataset),
        device=torch.device("cpu"),
        seed=0,
    )


def check_spans(settings: ConvertSettings) -> None:
    """See that resolved settings give no more epochs to the ANN's levels and to the finish than there are.

    Raises:
        UsageError: they do.
    """
    epochs, first, last = settings.epochs or 0, settings.quantized_epochs, settings.finish_epochs
    if first + last <= epochs:
        return
    if first and last:
        raise UsageError(
            f"--quantized-epochs {first} and --finish-epochs {last} are more than the {epochs} epochs in all; "
            f"give {epochs} or less together"
        )
    flag = "--quantized-epochs" if first else "--finish-epochs"
    raise UsageError(f"{flag} {first or last} are more than the {epochs} epochs in all; give {epochs} or less")


def check_equalized(settings: ConvertSettings) -> None:
    """See that resolved settings equalise only weights of a teacher.

    Raises:
        UsageError: the student starts from others.
    """
    if settings.equalize and settings.init != "teacher":
        raise UsageError(
            f"--equalize rescales a teacher's weights, and --init is {settings.init}; leave one of them out"
        )
