"""The averaged weights' own running statistics, once the last step is made."""

from collections.abc import Iterator
from itertools import islice
from math import ceil

from torch import Tensor

from ann2snn_distill.conversion.statistics import statistics_over
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.batches import TrainBatches
from ann2snn_distill.evaluation.totals import exact_float32
from ann2snn_distill.recipes import SMALL_IMAGE
from ann2snn_distill.training.state import TrainState

BATCHES = 64
"""Training batches that the statistics are taken from, or all of an epoch where it has fewer."""


_SMALL, _LARGE = 250, 32
"""Images at once, at most, on any device, as statistics depend on them: a batch is cut into the fewest equal parts."""


def renew_statistics(
    student: SpikingNetwork, state: TrainState, batches: TrainBatches, *, epoch: int, timesteps: int, img_size: int
) -> None:
    """Write statistics of the averaged network into the average, in the numerics of evaluation.

    They depend on averaged weights and batches alone, so that doing it again changes nothing.

    Args:
        student: the SNN, the first module of `state`.
        state: what was trained; it has an average.
        batches: the training data, augmented.
        epoch: whose batches are taken, counted from 0: one that was not trained on.
        timesteps: T.
        img_size: side of the images, pixels.
    """
    with state.as_evaluated(), exact_float32():
        found = statistics_over(
            student, _parts(batches, epoch, _LARGE if img_size > SMALL_IMAGE else _SMALL), timesteps
        )
    for name, statistic in found.items():
        state.average[name].copy_(statistic)


def _parts(batches: TrainBatches, epoch: int, images: int) -> Iterator[Tensor]:
    for x, _ in islice(batches.epoch(epoch), BATCHES):
        yield from x.chunk(ceil(len(x) / images))
