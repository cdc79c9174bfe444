"""The process of a command: its signals from first to last, and the one place where its exit code is decided."""

import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130

_SAME_PRESS = 1.0
"""Seconds in which signals are one: `timeout` and job schedulers send theirs to a process and to its group."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `arguments` (default: the process's own) and leave with the exit code of the interface."""
    interruptible = Interruptible()
    interruptible.catch()
    code = interruptible.run(lambda: _run(arguments))
    gc.freeze()  # what is left goes with the process: to look through it for garbage takes a second or more
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    from ann2snn_distill.cli.app import run  # takes a third of a second, in which a Ctrl-C may fall

    return run(arguments)


class Interruptible:
    """Lets Ctrl-C and SIGTERM, a scheduler's or a container's way to stop a run, interrupt one piece of work.

    A signal before the work waits for it. One after it, when the exit code is decided, ends the process at once with
    that code: it can neither change the code nor be lost on a process that hangs while it leaves. Signals that follow
    another within a second are that one once more: what it began, such as saving a state, goes on.
    """

    def __init__(self) -> None:
        self._working = False
        self._waiting = False
        self._code: int | None = None
        self._struck = -_SAME_PRESS

    def catch(self) -> None:
        """Handle the signals from here on; one that the process was started to ignore stays ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._arrived)
        atexit.register(_ignore)  # the first to be registered is the last to run; Python then lets signals kill it

    def run(self, work: Callable[[], int]) -> int:
        """Return the exit code of `work`, or 130 where it was interrupted."""
        try:
            self._working = True
            if self._waiting:
                raise KeyboardInterrupt
            self._code = work()
            self._working = False
        except KeyboardInterrupt:  # of Python's bytecodes only calls and jumps back let a signal in: none is here
            self._working = False
            self._code = INTERRUPTED
        return self._code

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        before, self._struck = self._struck, time.monotonic()
        if self._struck - before < _SAME_PRESS:
            return
        if self._working:
            raise KeyboardInterrupt
        if self._code is None:
            self._waiting = True
        else:
            os._exit(self._code)


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
