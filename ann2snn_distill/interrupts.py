"""Ctrl-C and SIGTERM between pieces of work, never within one: a step of a training, the reading of a file."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Calls the handlers that were there before: at once, or after what is `held`."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._held = False
        self._pending: list[int] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Stand in for the handlers that Python code has installed; signals that are ignored or kill stay so."""
        if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
            yield
            return
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        self._handlers = {number: handler for number, handler in found.items() if callable(handler)}
        try:
            for number in self._handlers:
                signal.signal(number, self._arrived)
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back until the block has ended; several are then one."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            number = self._pending[0]
            self._pending.clear()
            self._handlers[number](number, None)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending.append(number)
        else:
            self._handlers[number](number, frame)
