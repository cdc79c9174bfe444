"""Locks between processes, which the kernel releases when their holder ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ann2snn_distill.errors import BadInputError

_PAUSE = 0.2
"""Seconds between two attempts."""


@contextmanager
def locked(path: Path, *, waiting: Callable[[float], None]) -> Iterator[int]:
    """Hold the lock of the file `path`, made if it is missing; give its descriptor.

    A process that inherits the descriptor holds the lock, too. The file stays: removing it would let two holders in.

    Args:
        path: an empty file that stands for what is locked.
        waiting: called with the seconds waited, several times a second, while another process holds the lock;
            what it raises ends the attempt.

    Raises:
        BadInputError: the file cannot be made or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadInputError(f"cannot lock {path}: {error.strerror}; make its folder writable") from error
    try:
        started = time.monotonic()
        while not _taken(descriptor):
            waiting(time.monotonic() - started)
            time.sleep(_PAUSE)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
