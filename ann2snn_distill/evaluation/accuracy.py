"""Top-1 accuracy, in the one numerics of `totals`.

Shapes: T timesteps, B batch, K classes. Accuracies are percentages.
"""

from collections.abc import Callable

from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.evaluation.totals import LabelledBatches, totals_over


def top1(predict: Callable[[Tensor], Tensor], batches: LabelledBatches) -> float:
    """Return the accuracy of `predict`, images (B, ...) to logits (B, K)."""
    return _top1_each(lambda x: {"only": predict(x)}, batches)["only"]


def top1_at(student: SpikingNetwork, batches: LabelledBatches, timesteps: int) -> dict[int, float]:
    """Return the accuracy of the mean logits over the first t timesteps, for every t <= T, from one pass."""
    found = _top1_each(lambda x: logits_at(student(x, timesteps)), batches)
    return {int(t): accuracy for t, accuracy in found.items()}


def logits_at(logits_TBK: Tensor) -> dict[str, Tensor]:
    """Return the sum (B, K) of the logits over the first t timesteps, for every t <= T by its number."""
    return {str(t): running_BK for t, running_BK in enumerate(logits_TBK.cumsum(0), start=1)}


def hits_of(logits: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Return how many of the batch each classifier's logits (B, K) get right, a scalar each."""
    return {name: (logits_BK.argmax(1) == labels).sum() for name, logits_BK in logits.items()}


def _top1_each(predict: Callable[[Tensor], dict[str, Tensor]], batches: LabelledBatches) -> dict[str, float]:
    hits, count = totals_over(batches, lambda x, labels: hits_of(predict(x), labels))
    return {name: 100.0 * value / count for name, value in hits.items()}
