"""Top-1 accuracy in float32 without TF32: spikes flip with numerics, so a reported number has one numerics.

Shapes: T timesteps, B batch, K classes. Accuracies are percentages.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ann2snn_distill.conversion.student import SpikingNetwork

LabelledBatches = Iterable[tuple[Tensor, Tensor]]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch TF32 and cuDNN's search for algorithms off, and back to what they were on leaving."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul


def top1(predict: Callable[[Tensor], Tensor], batches: LabelledBatches) -> float:
    """Return the accuracy of `predict`, images (B, ...) to logits (B, K)."""
    return top1_each(lambda x: {"only": predict(x)}, batches)["only"]


def top1_at(student: SpikingNetwork, batches: LabelledBatches, timesteps: int) -> dict[int, float]:
    """Return the accuracy of the mean logits over the first t timesteps, for every t <= T, from one pass."""

    def predict(x: Tensor) -> dict[str, Tensor]:
        running_TBK = student(x, timesteps).cumsum(0)
        return {str(t + 1): running_BK for t, running_BK in enumerate(running_TBK)}

    return {int(t): accuracy for t, accuracy in top1_each(predict, batches).items()}


def top1_each(predict: Callable[[Tensor], dict[str, Tensor]], batches: LabelledBatches) -> dict[str, float]:
    """Return the accuracy of each named classifier; waits for the device once, at the end."""
    correct: dict[str, Tensor] = {}
    count = 0
    with torch.no_grad(), exact_float32():
        for x, labels in batches:
            count += len(labels)
            for name, logits_BK in predict(x).items():
                hits = (logits_BK.argmax(1) == labels).sum()
                correct[name] = correct[name] + hits if name in correct else hits
    return {name: 100.0 * int(hits) / count for name, hits in correct.items()}
