"""Locks between processes, which the kernel releases when their holder ends, however it ends."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ann2snn_distill.errors import BadInputError

_PAUSE = 0.2
"""Seconds between two attempts."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks say, such as Lustre mounted without them."""


@contextmanager
def locked(path: Path, *, waiting: Callable[[float], None], removed: bool = False) -> Iterator[int]:
    """Hold the lock of the file `path`, made if it is missing; give its descriptor.

    A process that inherits the descriptor holds the lock, too. Where the file system has no locks, nothing is locked.

    Args:
        path: an empty file that stands for what is locked.
        waiting: called with the seconds waited, several times a second, while another process holds the lock;
            what it raises ends the attempt.
        removed: the file is removed with the lock, unless its holder is killed. For files that no process inherits.

    Raises:
        BadInputError: the file cannot be made or locked.
    """
    started = time.monotonic()
    while (descriptor := _taken(path)) is None:
        waiting(time.monotonic() - started)
        time.sleep(_PAUSE)
    try:
        yield descriptor
    finally:
        if removed:
            with suppress(OSError):  # a folder that turned read-only keeps what is in it
                if _is_there(path, descriptor):
                    path.unlink()  # while it is locked: whoever waits for it sees that it is gone
        os.close(descriptor)


def _taken(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None while another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        remedy = "free some space" if error.errno in _FULL else "make its folder writable"
        raise BadInputError(f"cannot lock {path}: {error.strerror}; {remedy}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return descriptor
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise BadInputError(f"cannot lock {path}: {error.strerror}; choose another folder") from error
    if not _is_there(path, descriptor):
        os.close(descriptor)
        return None
    return descriptor


def _is_there(path: Path, descriptor: int) -> bool:
    """Is the open file still the one of this name? Its last holder may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
