"""Writing files whole or not at all."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ann2snn_distill.errors import BadInputError

_SUFFIX = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, sync it, rename it over `path`, and sync the folder.

    Raises:
        BadInputError: the disk is full or the folder unwritable; `path` is as it was before.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        os.close(handle)
        write(temporary)
        _sync(temporary, os.O_RDWR)
        temporary.chmod(0o644)
        temporary.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # a disk that turned read-only keeps what is on it
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def unwritable(path: Path, error: OSError) -> BadInputError:
    """Say why `path` cannot be written, and the next step."""
    remedy = "free some space" if error.errno in _FULL else "make its folder writable"
    return BadInputError(f"cannot write {path}: {error.strerror or error}; {remedy}, or choose another folder")


def is_leftover(path: Path) -> bool:
    """Is this a temporary neighbour that a killed process left behind?"""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what killed processes left in `folder`, of files called `name` alone if it is given.

    Only for a folder, or a name in it, that no other process writes meanwhile.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if is_leftover(path) and path.name.startswith(f".{name}"):
            path.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path, said: str) -> str:
    """Return the SHA-256 of a file's bytes.

    Args:
        path: the file.
        said: the setting that names it.

    Raises:
        BadInputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; check {said}") from error
