"""Progress events: the pipeline tells an observer what happens, and only the command line prints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PhaseStarted:
    """A part of the run begins, such as "training the teacher".

    `total` counts its steps, if known, and `done` those of them that were made before.
    """

    name: str
    total: int | None = None
    done: int = 0


@dataclass(frozen=True)
class StepsDone:
    """`steps` more steps of the current phase are done; `images_per_second` is the recent mean."""

    steps: int
    images_per_second: float | None = None
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochDone:
    """An epoch of the current phase ended; `epoch` counts from 1."""

    epoch: int
    epochs: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class PhaseDone:
    """The current phase is over."""


@dataclass(frozen=True)
class Note:
    """Something the user should know, in one sentence."""

    text: str


@dataclass(frozen=True)
class Caution:
    """Something the user should worry about; it also stands in the report's `warnings`."""

    text: str


@dataclass(frozen=True)
class OutputChosen:
    """The run writes to `folder`."""

    folder: Path


Event = PhaseStarted | StepsDone | EpochDone | PhaseDone | Note | Caution | OutputChosen
Observer = Callable[[Event], None]


def silent(event: Event) -> None:
    """An observer that ignores everything."""
