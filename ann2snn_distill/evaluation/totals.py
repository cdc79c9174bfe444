"""Sums over labelled batches, in one numerics: float32 without TF32, as spikes flip with numerics.

On CUDA a measurement is recorded in a graph at the second batch of a shape and replayed for every later one: the same
kernels, without the time to launch them. Shapes: B batch.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LabelledBatches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, ...) and class indices (B,)."""

Measurement = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Named scalars of one batch, to be summed: integers or float64; it must not wait for the device."""


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


def totals_over(batches: LabelledBatches, measure: Measurement) -> tuple[dict[str, float], int]:
    """Return the sum of every scalar over all batches, and the number of images; waits for the device at the end."""
    sums: dict[str, Tensor] = {}
    count = 0
    with torch.no_grad(), exact_float32():
        measure = _Replayed(measure)
        for x, labels in batches:
            count += len(labels)
            for name, value in measure(x, labels).items():
                sums[name] = sums[name] + value if name in sums else value.clone()
    return {name: value.item() for name, value in sums.items()}, count


class _Replayed:
    """A measurement in a CUDA graph, if it can be recorded; its results are overwritten by the next call."""

    def __init__(self, measure: Measurement) -> None:
        self._measure = measure
        self._seen: torch.Size | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if x.is_cuda and self._graph is None and self._seen == x.shape:
            self._record(x, labels)
        if self._graph is None or x.shape != self._x.shape:
            self._seen = x.shape if self._seen is None else self._seen
            return self._measure(x, labels)
        self._x.copy_(x)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._results

    def _record(self, x: Tensor, labels: Tensor) -> None:
        self._x, self._labels = x.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread pins the next images
                self._results = self._measure(self._x, self._labels)
        except RuntimeError:  # it waits for the device somewhere: measured batch by batch, then
            self._seen = torch.Size()
            return
        self._graph = graph
