"""A whole training: epochs of steps, progress, kept states, and how it ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from ann2snn_distill.data.batches import TrainBatches
from ann2snn_distill.errors import BadInputError, InterruptedRunError
from ann2snn_distill.events import EpochDone, Note, Observer, PhaseDone, PhaseStarted
from ann2snn_distill.training.divergence import where_it_began
from ann2snn_distill.training.keeping import Interval, Keeper
from ann2snn_distill.training.loop import Loop, NotFiniteError, Schedule, Span, own_generators
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState
from ann2snn_distill.training.step import Execution

__all__ = [
    "Begin",
    "Conclude",
    "EpochMetrics",
    "Execution",
    "FitResult",
    "Interval",
    "Plan",
    "Record",
    "Schedule",
    "Span",
    "fit",
]


@dataclass(frozen=True)
class Plan:
    """How long and how fast, and what is kept meanwhile.

    Attributes:
        schedule: steps and learning rate.
        interval: between states on disk; the last is always written.
        remedy: the next step for a user whose loss diverges.
    """

    schedule: Schedule
    interval: Interval
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

Begin = Callable[[], None]
"""Changes what is to be trained, in place, where no state is left to go on from."""

Conclude = Callable[[], None]
"""Changes what was trained once more, after the last step; it may be called again after an interruption."""

Record = Callable[[Sequence[dict[str, Any]]], None]
"""Keeps the lines of all epochs so far."""


def fit(
    name: str,
    spans: Sequence[Span],
    batches: TrainBatches,
    state: TrainState,
    *,
    plan: Plan,
    execution: Execution,
    resume: ResumeFolder,
    observe: Observer,
    begin: Begin = lambda: None,
    conclude: Conclude = lambda: None,
    metrics: EpochMetrics = lambda epoch: {},
    record: Record = lambda lines: None,
) -> FitResult:
    """Train until the schedule's epochs are done, going on from the newest state in `resume`, at any step.

    Args:
        name: of the phase, for progress.
        spans: objectives of the schedule's epochs, in their order.
        batches: the training data; a batch depends on the numbers of epoch and step alone.
        state: what is trained; on return, after the last epoch.
        plan: length, learning rate, interval of states.
        execution: device, precision, compilation.
        resume: where states are written and looked for.
        observe: told of progress.
        begin: called before the first step of all, and not where the training goes on.
        conclude: called after the last step, before that epoch's metrics.
        metrics: called after each epoch.
        record: called after each epoch, and before the first where an earlier process has finished some.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; the state after the present step is written.
        BadInputError: the loss, a gradient or a weight is no longer finite; the last good state is written.
        Exception: whatever else ends the training, once its state is written, as far as it can be.
    """
    loop = Loop(spans, batches, state, plan.schedule, execution, observe)
    keeper = Keeper(loop, resume, plan.interval)
    keeper.go_on(name, plan.schedule.epochs, observe, begin)
    with _kept_if_interrupted(name, plan.schedule.epochs, loop, keeper, resume):
        diverged = False
        try:
            with own_generators(execution.device):
                _train(name, loop, keeper, observe, conclude, metrics, record)
        except NotFiniteError:
            diverged = True  # looked into below, where no traceback holds the step and its memory
        except Exception:
            with suppress(Exception):  # what ended the training is what the user must hear of
                keeper.save_good()
            raise
        if diverged:
            keeper.save_good()
            observe(Note(f"{name}: the loss, a gradient or a weight is no longer finite; looking for where that began"))
            raise _diverged(name, loop, keeper, plan.remedy, resume)
    observe(PhaseDone())
    return _result(loop.history)


@contextmanager
def _kept_if_interrupted(name: str, epochs: int, loop: Loop, keeper: Keeper, resume: ResumeFolder) -> Iterator[None]:
    """Write the state at the first signal that gets through; one that follows meanwhile changes nothing."""
    with loop.interrupts.watched():
        try:
            yield
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt), loop.interrupts.held():
                keeper.save_good()
            raise InterruptedRunError(
                f"interrupted; the state of {name} after {keeper.good.place} of {epochs} is kept in {resume.folder}"
            ) from None


def _train(
    name: str,
    loop: Loop,
    keeper: Keeper,
    observe: Observer,
    conclude: Conclude,
    metrics: EpochMetrics,
    record: Record,
) -> None:
    epochs, per_epoch = loop.schedule.epochs, loop.batches.steps_per_epoch
    observe(PhaseStarted(name, total=epochs * per_epoch, done=loop.steps_made))
    if loop.history:
        record(loop.history)  # the process before may have been killed with a state written and its lines not
    while len(loop.history) < epochs:
        epoch = len(loop.history) + 1
        with closing(loop.steps()) as steps:
            for _ in steps:
                keeper.after_step()
        line = loop.line()
        keeper.refresh()  # what follows may lend the network other weights, and be interrupted anywhere
        with loop.unsettled():
            if epoch == epochs:
                conclude()
            entry: dict[str, Any] = {"epoch": epoch, "phase": name, **line, **metrics(epoch)}
        loop.close_epoch(entry)
        keeper.after_epoch(last=epoch == epochs)
        record(loop.history)
        observe(EpochDone(epoch, epochs, {k: v for k, v in entry.items() if isinstance(v, float)}))


def _diverged(name: str, loop: Loop, keeper: Keeper, remedy: str, resume: ResumeFolder) -> BadInputError:
    epoch = len(loop.history) + 1
    try:
        began = where_it_began(loop, keeper.good)
        where = f": it began in {began}" if began else ", though a replay in plain code stays finite"
    except torch.OutOfMemoryError:
        where = "; where it began is not known, as a replay in plain code takes more memory than there is"
    return BadInputError(
        f"the loss, a gradient or a weight of {name} is no longer finite in epoch {epoch}{where}; {remedy} "
        f"(the state after {keeper.good.place} is kept in {resume.folder})"
    )


def _result(history: Sequence[dict[str, Any]]) -> FitResult:
    speeds = sorted(line["images_per_second"] for line in history)
    peaks = [line["peak_memory_mib"] for line in history if line["peak_memory_mib"] is not None]
    seconds = sum(line["seconds"] for line in history)
    return FitResult(tuple(history), seconds, speeds[len(speeds) // 2], max(peaks, default=None))
