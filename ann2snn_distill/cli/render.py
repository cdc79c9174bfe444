"""Progress on stderr: bars on a terminal; elsewhere a line a phase and a minute. Notes and cautions on both."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ann2snn_distill.events import (
    Caution,
    EpochDone,
    Event,
    Note,
    Observer,
    PhaseDone,
    PhaseStarted,
    StepsDone,
)

_BAR_WIDTH = 12
_ROOM_BESIDE_LOSSES = 68
"""Columns that name, epochs, bar, percent, remaining time and speed take, so that a bar fits 80 columns."""

_SILENCE = 60.0
"""Seconds after which a line says how far a phase is, where there are no bars."""

_TIMING = ("lr", "seconds", "images_per_second", "peak_memory_mib")
_PARTS = ("student_", "branch_")


@contextmanager
def observing() -> Iterator[Observer]:
    """Give an observer that writes to stderr; what libraries print meanwhile goes there, too."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield ProgressObserver(console)
            return
        with _bars(console) as progress:
            yield ProgressObserver(console, progress)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR_WIDTH),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]} {task.fields[losses]}", markup=False),
        console=console,
        transient=True,
    )


class ProgressObserver:
    """Shows events on `console`, and on bars if there are any."""

    def __init__(self, console: Console, progress: Progress | None = None) -> None:
        self._console = console
        self._progress = progress
        self._task: TaskID | None = None
        self._phase = ""
        self._started = 0.0
        self._said = 0.0
        self._done = 0
        self._total: int | None = None
        self._last: EpochDone | None = None

    def __call__(self, event: Event) -> None:
        """Show `event`."""
        match event:
            case PhaseStarted(name, total, done):
                self._start(name, total, done)
            case StepsDone():
                self._step(event)
            case EpochDone():
                self._last = event
                self._update(description=f"{self._phase} {event.epoch}/{event.epochs}")
                self._remind()
            case PhaseDone():
                self._finish()
            case Note(text):
                self._say(text)
            case Caution(text):
                self._say(f"warning: {text}")

    def _start(self, name: str, total: int | None, done: int) -> None:
        self._phase, self._last, self._done, self._total = name, None, done, total
        self._started = self._said = time.perf_counter()
        if self._progress is not None:
            self._remove_bar()
            self._task = self._progress.add_task(name, total=total, completed=done, speed="", losses="")

    def _step(self, event: StepsDone) -> None:
        if event.images_per_second is not None:
            self._update(speed=f"{event.images_per_second:,.0f} images/s")
        if event.losses:
            self._update(losses=_fitting(event.losses, self._console.width - _ROOM_BESIDE_LOSSES))
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, event.steps)
        self._done += event.steps
        self._remind()

    def _remind(self) -> None:
        """Say how far the phase is, where no bar does and nothing was said for a while."""
        if self._progress is not None or time.perf_counter() - self._said < _SILENCE:
            return
        share = f", {self._done / self._total:.0%}" if self._total else ""
        if self._last is None:
            self._say(f"{self._phase}{share}")
        else:
            epoch = f"epoch {self._last.epoch} of {self._last.epochs}"
            self._say(f"{self._phase}: {epoch}{share}, {_summary(self._last.metrics)}")

    def _finish(self) -> None:
        self._remove_bar()
        seconds = time.perf_counter() - self._started
        text = f"{self._phase}: {seconds:.1f} s"
        if self._last is not None:
            epochs = "1 epoch" if self._last.epoch == 1 else f"{self._last.epoch} epochs"
            text = f"{self._phase}: {epochs}, {seconds:.1f} s, {_summary(self._last.metrics)}"
        self._say(text)

    def _update(self, **fields: Any) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, **fields)

    def _remove_bar(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
        self._said = time.perf_counter()


def _fitting(losses: Mapping[str, float], room: int) -> str:
    """Write the first loss, and as many of the others as there is room for."""
    text = ""
    for name, value in losses.items():
        longer = f"{text} {name} {value:.4g}".strip()
        if text and len(longer) > room:
            break
        text = longer
    return text


def _summary(metrics: Mapping[str, float]) -> str:
    """Write speed and outcome of the last epoch; parts of the loss stand in metrics.jsonl."""
    speed = metrics.get("images_per_second")
    rest = {k: v for k, v in metrics.items() if k not in _TIMING and not k.startswith(_PARTS)}
    return (f"{speed:,.0f} images/s, " if speed is not None else "") + _named(rest)


def _named(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())
