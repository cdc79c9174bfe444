"""The steps of one training, from any step of any epoch on, and what they sum up to."""

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ann2snn_distill.data.batches import TrainBatches
from ann2snn_distill.data.seeding import stream_seed
from ann2snn_distill.distillation.objectives import Objective
from ann2snn_distill.events import Note, Observer, StepsDone
from ann2snn_distill.interrupts import Interrupts
from ann2snn_distill.training.resume import Part, Restart
from ann2snn_distill.training.schedule import cosine_with_warmup
from ann2snn_distill.training.state import TrainState
from ann2snn_distill.training.step import Execution, LossTotals, Step, ready_step

_REPORT_SECONDS = 1.0

_COUNTED = ("epoch", "seconds", "images_per_second")
_KINDS: dict[str, type] = {"phase": str, "cosine": dict, "val_branches": dict, "val_top1_at": dict}
"""Values of an epoch's line that are not a number or None."""


class NotFiniteError(Exception):
    """The loss or a weight is not finite any more, or the gradients are not at any scale."""


@dataclass(frozen=True)
class Schedule:
    """How many steps, and how fast.

    Attributes:
        epochs: of training.
        warmup_epochs: of them, while the learning rate rises.
        peak: learning rate after the warm-up.
        seed: of what the network itself draws, such as dropout; every step has its own stream.
    """

    epochs: int
    warmup_epochs: float
    peak: float
    seed: int = 0

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from the first of the training."""
        return cosine_with_warmup(
            step,
            steps=self.epochs * steps_per_epoch,
            warmup=round(self.warmup_epochs * steps_per_epoch),
            peak=self.peak,
        )


@dataclass(frozen=True)
class Span:
    """Consecutive epochs by one objective; weights, optimiser and learning rate go on into the next span."""

    epochs: int
    objective: Objective


class Loop:
    """One training under way. Between two steps its state is whole, and `here` says where it stands.

    Attributes:
        batches: the training data.
        state: what is trained.
        schedule: length, learning rate and seed.
        execution: device, precision, compilation.
        interrupts: held back during a step.
        history: a line for each finished epoch.
        settled: whether the state is whole; False while a step is made or measured, and after one that failed.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        batches: TrainBatches,
        state: TrainState,
        schedule: Schedule,
        execution: Execution,
        observe: Observer,
    ):
        self._spans, self.batches, self.state = spans, batches, state
        self.schedule, self.execution, self._observe = schedule, execution, observe
        self.interrupts = Interrupts()
        self.history: list[dict[str, Any]] = []
        self.settled = True
        self._totals = LossTotals(execution.device)
        self._step: Step | None = None
        self._made_for = self.objective
        self._begin(Part())

    @property
    def objective(self) -> Objective:
        """The loss parts of a batch in this epoch, not compiled."""
        ends = accumulate(span.epochs for span in self._spans)
        return next(
            (span.objective for span, end in zip(self._spans, ends, strict=True) if len(self.history) < end),
            self._spans[-1].objective,
        )

    @property
    def steps_made(self) -> int:
        """Steps since the first of the training."""
        return len(self.history) * self.batches.steps_per_epoch + self._totals.steps

    def here(self) -> Restart:
        """Return where the training stands; its tensors are the live ones."""
        part = Part()
        if self._totals.steps:
            part = Part(self._totals.steps, self._totals.sums(), time.perf_counter() - self._started, self._peak())
        return Restart(len(self.history), self.state.tensors(), tuple(self.history), part)

    def misfit(self, restart: Restart) -> str | None:
        """Return why a state can be none of this training, or None."""
        forms, wanted = (
            {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
            for tensors in (restart.tensors, self.state.tensors())
        )
        if forms != wanted:
            return "its tensors are not those of this training"
        epochs, steps = self.schedule.epochs, self.batches.steps_per_epoch
        if not (restart.epoch == len(restart.history) <= epochs and 0 <= restart.part.steps <= steps):
            return "this training has no such epoch or step"
        return None if all(map(_is_line, restart.history)) else "the lines of its epochs lack something"

    def go_to(self, restart: Restart) -> None:
        """Stand where `restart` stands; a step that was ready, and the memory of its recording, are let go."""
        self._step = None
        self.state.restore(restart.tensors)
        self.history = list(restart.history)
        self._begin(restart.part)

    def steps(self) -> Generator[None, None, None]:
        """Make the steps that the epoch still lacks; between two of them the state is whole.

        Raises:
            NotFiniteError: the losses are not finite any more; looked at about once a second.
        """
        reported, count = time.perf_counter(), 0
        for x, target_BK in self.batches.epoch(len(self.history), self._totals.steps):
            step = self._made_step(x, target_BK)
            with self.interrupts.held(), self.unsettled():
                self.prepare(self._totals.steps)
                step(x, target_BK)
                self._totals.count()
            yield
            count += 1
            now = time.perf_counter()
            if now - reported > _REPORT_SECONDS:
                self._report(count, now - reported)
                reported, count = now, 0
        if count:
            self._observe(StepsDone(count))

    @contextmanager
    def unsettled(self) -> Iterator[None]:
        """Let the state be what it likes; it counts as whole again if the block ends and does not fail."""
        self.settled = False
        yield
        self.settled = True

    def prepare(self, step: int) -> None:
        """Set the learning rate of a step of this epoch (from 0), and seed what the network draws in it."""
        epoch = len(self.history)
        self.state.set_learning_rate(self._rate(step))
        torch.manual_seed(stream_seed(self.schedule.seed, epoch, "network", step))

    def line(self) -> dict[str, float | None]:
        """Return the epoch's mean loss parts, last learning rate, seconds, images/s and peak memory."""
        means = self._totals.means()
        seconds = time.perf_counter() - self._started
        return {
            **means,
            "lr": self._rate(self._totals.steps - 1),
            "seconds": seconds,
            "images_per_second": self._totals.steps * self.batches.batch_size / seconds,
            "peak_memory_mib": self._peak(),
        }

    def close_epoch(self, entry: dict[str, Any]) -> None:
        """Keep the epoch's line; the next epoch begins."""
        with self.interrupts.held():
            self.history.append(entry)
            self._begin(Part())

    def check_finite(self) -> None:
        """See that the losses of this epoch and everything that is trained are finite; waits for the device.

        Raises:
            NotFiniteError: they are not.
        """
        if not all(math.isfinite(value) for value in self._totals.means().values()):
            raise NotFiniteError
        if not self.state.is_finite():
            raise NotFiniteError

    def _begin(self, part: Part) -> None:
        if self.objective is not self._made_for:  # its parts have names of their own
            self._totals, self._step, self._made_for = LossTotals(self.execution.device), None, self.objective
        self._totals.reset(part.losses, steps=part.steps)
        self._peak_before = part.peak_memory_mib or 0.0
        if self.execution.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.execution.device)
        self._started = time.perf_counter() - part.seconds

    def _peak(self) -> float | None:
        if self.execution.device.type != "cuda":
            return None
        return max(self._peak_before, torch.cuda.max_memory_allocated(self.execution.device) / 2**20)

    def _rate(self, step: int) -> float:
        per_epoch = self.batches.steps_per_epoch
        return self.schedule.rate(len(self.history) * per_epoch + step, per_epoch)

    def _made_step(self, x: Tensor, target_BK: Tensor) -> Step:
        if self._step is None:
            with self.unsettled():
                self._step = ready_step(
                    self.objective, self.state, self._totals, self.execution,
                    x=x, target_BK=target_BK, note=lambda text: self._observe(Note(text)),
                )  # fmt: skip
        return self._step

    def _report(self, steps: int, seconds: float) -> None:
        losses = self._totals.means()
        if not all(math.isfinite(value) for value in losses.values()):
            raise NotFiniteError
        speed = steps * self.batches.batch_size / seconds
        self._observe(StepsDone(steps, images_per_second=speed, losses=losses))


def _is_line(line: Mapping[str, Any]) -> bool:
    kinds = all(isinstance(value, _KINDS.get(name, int | float | None)) for name, value in line.items())
    return kinds and "peak_memory_mib" in line and all(line.get(name) is not None for name in _COUNTED)


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they were: steps seed them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
