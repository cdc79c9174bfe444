"""Epochs: data to steps, schedule, progress, restarts."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ann2snn_distill.data.batches import TrainBatches
from ann2snn_distill.data.seeding import stream_seed
from ann2snn_distill.distillation.objectives import Objective
from ann2snn_distill.errors import BadInputError, InterruptedRunError
from ann2snn_distill.events import Caution, EpochDone, Note, Observer, PhaseDone, PhaseStarted, StepsDone
from ann2snn_distill.training.resume import Restart, ResumeFolder
from ann2snn_distill.training.schedule import cosine_with_warmup
from ann2snn_distill.training.state import TrainState
from ann2snn_distill.training.step import LossTotals, Step, captured_step, plain_step

_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Execution:
    """How steps run: on which device, in which precision, compiled and captured or not, in how many pieces."""

    device: torch.device
    amp: bool
    compiled: bool
    pieces: int = 1


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        epochs: of training.
        warmup_epochs: of them, while the learning rate rises.
        peak: learning rate after the warm-up.
        checkpoint_interval: epochs between written states.
        seed: of what the network itself draws, such as dropout; every epoch has its own stream.
        remedy: the next step for a user whose loss diverges.
    """

    epochs: int
    warmup_epochs: float
    peak: float
    checkpoint_interval: int = 1
    seed: int = 0
    remedy: str = "lower the learning rate"


@dataclass(frozen=True)
class FitResult:
    """What a training cost: one line an epoch, seconds of its epochs, and images a second (the median epoch's)."""

    history: tuple[dict[str, Any], ...]
    seconds: float
    images_per_second: float
    peak_memory_mib: float | None


EpochMetrics = Callable[[int], dict[str, Any]]
"""Extra metrics after an epoch (from 1), such as accuracy on a validation split."""

Record = Callable[[Sequence[dict[str, Any]]], None]
"""Keeps the lines of all epochs so far."""


def fit(
    name: str,
    objective: Objective,
    batches: TrainBatches,
    state: TrainState,
    *,
    plan: Plan,
    execution: Execution,
    resume: ResumeFolder,
    observe: Observer,
    metrics: EpochMetrics = lambda epoch: {},
    record: Record = lambda lines: None,
) -> FitResult:
    """Train until `plan.epochs` epochs are done, going on from the newest state in `resume`.

    Args:
        name: of the phase, for progress.
        objective: loss parts of a batch.
        batches: the training data; its epochs depend on their number alone.
        state: what is trained; on return, after the last epoch.
        plan: length and learning rate.
        execution: device, precision, compilation.
        resume: where states are written and looked for.
        observe: told of progress.
        metrics: called after each epoch.
        record: called after each epoch, once its state is safe.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; the last finished epoch's state is written.
        BadInputError: the loss or a weight is no longer finite; the last good state is written.
    """
    loop = _Loop(objective, batches, state, plan, execution, observe)
    restart, complaints = resume.load()
    for complaint in complaints:
        observe(Caution(complaint))
    history: list[dict[str, Any]] = []
    if restart is not None:
        state.restore(restart.tensors)
        history = list(restart.history)
        observe(Note(f"{name}: going on after epoch {restart.epoch} of {plan.epochs}"))
    good = Restart(len(history), state.snapshot(), tuple(history))
    observe(PhaseStarted(name, total=(plan.epochs - len(history)) * batches.steps_per_epoch))
    try:
        for epoch in range(len(history), plan.epochs):
            line = loop.epoch(epoch)
            if not _is_finite(line, state):
                resume.save(good)
                raise BadInputError(
                    f"the loss or a weight of {name} is no longer finite in epoch {epoch + 1}; {plan.remedy} "
                    f"(the state after epoch {good.epoch} is kept in {resume.folder})"
                )
            entry: dict[str, Any] = {"epoch": epoch + 1, "phase": name, **line, **metrics(epoch + 1)}
            history.append(entry)
            good = Restart(epoch + 1, state.snapshot(), tuple(history))
            if (epoch + 1) % plan.checkpoint_interval == 0 or epoch + 1 == plan.epochs:
                resume.save(good)
            record(history)
            observe(EpochDone(epoch + 1, plan.epochs, {k: v for k, v in entry.items() if isinstance(v, float)}))
    except KeyboardInterrupt:
        resume.save(good)
        raise InterruptedRunError(
            f"interrupted; the state of {name} after epoch {good.epoch} of {plan.epochs} is kept in {resume.folder}"
        ) from None
    observe(PhaseDone())
    return _result(history)


class _Loop:
    """One training's step, made when the first batch is there."""

    def __init__(
        self,
        objective: Objective,
        batches: TrainBatches,
        state: TrainState,
        plan: Plan,
        execution: Execution,
        observe: Observer,
    ):
        self._batches, self._state, self._plan = batches, state, plan
        self._execution, self._observe = execution, observe
        self._totals = LossTotals(execution.device)
        if execution.compiled:
            objective = torch.compile(objective, dynamic=False)
        self._plain = plain_step(
            objective,
            state,
            self._totals,
            amp=execution.amp,
            device=execution.device,
            pieces=execution.pieces,
        )
        self._step: Step | None = None

    def epoch(self, epoch: int) -> dict[str, float | None]:
        """Run epoch `epoch` (from 0); return mean loss parts, learning rate, seconds, images/s and peak memory."""
        with _own_stream(self._plan.seed, epoch, self._execution.device):
            return self._epoch(epoch)

    def _epoch(self, epoch: int) -> dict[str, float | None]:
        device = self._execution.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        self._totals.reset()
        rate = 0.0
        for index, (x, target_BK) in enumerate(self._reported(self._batches.epoch(epoch))):
            rate = self._rate(epoch * self._batches.steps_per_epoch + index)
            self._state.set_learning_rate(rate)
            step = self._made_step(x, target_BK)
            step(x, target_BK)
            self._totals.count()
        means = self._totals.means()
        seconds = time.perf_counter() - started
        images = self._batches.steps_per_epoch * self._batches.batch_size
        return {
            **means,
            "lr": rate,
            "seconds": seconds,
            "images_per_second": images / seconds,
            "peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        }

    def _made_step(self, x: Tensor, target_BK: Tensor) -> Step:
        if self._step is None:
            self._step = self._plain
            if self._execution.compiled and x.is_cuda:
                started = time.perf_counter()
                self._step = captured_step(self._plain, self._state, self._totals, x=x, target_BK=target_BK)
                self._observe(Note(f"step compiled and captured in {time.perf_counter() - started:.0f} s"))
        return self._step

    def _rate(self, step: int) -> float:
        per_epoch = self._batches.steps_per_epoch
        return cosine_with_warmup(
            step,
            steps=self._plan.epochs * per_epoch,
            warmup=round(self._plan.warmup_epochs * per_epoch),
            peak=self._plan.peak,
        )

    def _reported(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, telling the observer about once a second how many went by."""
        since, count = time.perf_counter(), 0
        for batch in batches:
            yield batch
            count += 1
            now = time.perf_counter()
            if now - since > _REPORT_SECONDS:
                speed = count * self._batches.batch_size / (now - since)
                self._observe(StepsDone(count, images_per_second=speed, losses=self._totals.means()))
                since, count = now, 0
        if count:
            self._observe(StepsDone(count))


@contextmanager
def _own_stream(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for one epoch, so that a resumed run draws what an uninterrupted one draws."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, epoch, "network"))
        yield


def _is_finite(line: dict[str, float | None], state: TrainState) -> bool:
    if not all(math.isfinite(value) for value in line.values() if value is not None):
        return False
    return bool(torch.stack([tensor.isfinite().all() for tensor in state.tensors().values()]).all())


def _result(history: list[dict[str, Any]]) -> FitResult:
    speeds = sorted(line["images_per_second"] for line in history)
    peaks = [line["peak_memory_mib"] for line in history if line["peak_memory_mib"] is not None]
    seconds = sum(line["seconds"] for line in history)
    return FitResult(tuple(history), seconds, speeds[len(speeds) // 2], max(peaks, default=None))
