"""Batches whose progress is told while they are gone through."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.events import Observer, PhaseDone, PhaseStarted, StepsDone


@dataclass(frozen=True)
class Watched:
    """Labelled batches, each pass over which is a phase of `images` steps called `name`.

    What was done with a batch is waited for before it is told: on CUDA the time to launch it says nothing.
    """

    name: str
    images: int
    batches: Iterable[tuple[Tensor, Tensor]]
    observe: Observer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches."""
        self.observe(PhaseStarted(self.name, total=self.images))
        started, done = time.perf_counter(), 0
        for x, labels in self.batches:
            yield x, labels
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            done += len(labels)
            speed = done / max(time.perf_counter() - started, 1e-9)
            self.observe(StepsDone(len(labels), images_per_second=speed))
        self.observe(PhaseDone())
