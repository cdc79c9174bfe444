"""Which states of a training are kept: the last good one in memory, and on disk at an interval and at the end."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ann2snn_distill.events import Caution, Note, Observer
from ann2snn_distill.training.loop import Loop, NotFiniteError
from ann2snn_distill.training.resume import Restart, ResumeFolder

_GOOD_SECONDS = 10.0
"""Between good states in memory: a diverged training is replayed from the last, and a copy costs milliseconds."""


@dataclass(frozen=True)
class Interval:
    """How often a state is written: every so many epochs, or every so many minutes at any step."""

    epochs: int | None = None
    minutes: float | None = None


class Keeper:
    """Keeps the states of `loop`, in memory and in `folder`.

    Attributes:
        good: the last state known to be finite; a copy.
    """

    def __init__(self, loop: Loop, folder: ResumeFolder, interval: Interval):
        self._loop, self._folder, self._interval = loop, folder, interval
        self._copies: dict[str, Tensor] = {}
        self.good = self._copied()
        self._saved = time.monotonic()

    def go_on(self, name: str, epochs: int, observe: Observer, begin: Callable[[], None]) -> None:
        """Let the loop stand where the newest whole state on disk does, and say so; begin where there is none.

        Args:
            name: of the phase.
            epochs: that it has.
            observe: told of damaged states, too.
            begin: changes what is trained once, before the first step of all.

        Raises:
            BadInputError: the state belongs to a run with other settings, or is of a newer release.
        """
        restart, complaints = self._folder.load(self._loop.misfit)
        way = "no whole state is left, so this training starts again"
        if restart is None:
            begin()
        else:
            self._loop.go_to(restart)
            way = f"the state after {restart.place} is used"
        for complaint in complaints:
            observe(Caution(f"{complaint}; {way}"))
        self.good = self._copied()
        if restart is not None:
            observe(Note(f"{name}: going on after {restart.place} of {epochs}"))

    def after_step(self) -> None:
        """Keep the state if it is time.

        Raises:
            NotFiniteError: it is time, and the state is not finite.
            BadInputError: it cannot be written.
        """
        now = time.monotonic()
        if self._is_due(now):
            self.save()
        elif now - self._refreshed > _GOOD_SECONDS:
            self.refresh()

    def after_epoch(self, *, last: bool) -> None:
        """Keep the state of a finished epoch, on disk if it is time or the last.

        Raises:
            BadInputError: it cannot be written.
        """
        every = self._interval.epochs
        if last or self._is_due(time.monotonic()) or (every and len(self._loop.history) % every == 0):
            self.save()
        else:
            self.refresh()

    def refresh(self) -> None:
        """Take the present state for the good one.

        Raises:
            NotFiniteError: it is not finite; the good one stays.
        """
        self._loop.check_finite()
        self.good = self._copied()

    def save(self) -> None:
        """Write the present state.

        Raises:
            NotFiniteError: it is not finite.
            BadInputError: it cannot be written.
        """
        self.refresh()
        self._write()

    def save_good(self) -> None:
        """Write the best there is: the present state, or the last good one if that is not whole or not finite.

        Raises:
            BadInputError: it cannot be written.
        """
        if self._loop.settled:
            with suppress(NotFiniteError):
                self.refresh()
        self._write()

    def _write(self) -> None:
        self._folder.save(self.good)
        self._saved = time.monotonic()

    def _is_due(self, now: float) -> bool:
        return self._interval.minutes is not None and now - self._saved >= 60 * self._interval.minutes

    def _copied(self) -> Restart:
        here = self._loop.here()
        with torch.no_grad():
            for name, tensor in here.tensors.items():
                if name in self._copies:
                    self._copies[name].copy_(tensor)
                else:
                    self._copies[name] = tensor.detach().clone()
        self._refreshed = time.monotonic()
        return replace(here, tensors=self._copies)
