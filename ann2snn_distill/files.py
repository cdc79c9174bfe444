"""Writing files whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ann2snn_distill.errors import BadInputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, sync it, and rename it over `path`.

    Raises:
        BadInputError: the disk is full or the folder unwritable; `path` is as it was before.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise BadInputError(f"cannot write {path}: {error.strerror}; choose another --output") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise BadInputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --output"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
