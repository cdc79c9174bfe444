"""Every failure as one or two sentences on stderr and an exit code."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer
from pydantic import ValidationError

from ann2snn_distill.cli.messages import explain
from ann2snn_distill.cli.process import INTERRUPTED
from ann2snn_distill.errors import SnnDistillError, UsageError

_HOST_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "can't start new thread", "bad_alloc")
"""What torch's and Python's plain RuntimeErrors say when the machine's own memory is at its end."""

_ONEDNN = ("could not create a primitive", "could not create a memory object", "could not execute a primitive")
"""All that torch's library for CPUs says where it cannot allocate; what it does not support has longer texts."""

FAILED = 1


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what a user can act on into `error: ...` and an exit code; a defect keeps its traceback."""
    try:
        yield
    except SnnDistillError as error:
        _fail(str(error), code=error.exit_code)
    except ValidationError as error:
        _fail(explain(error), code=UsageError.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", code=INTERRUPTED)
    except OSError as error:
        _fail(_describe(error), code=FAILED)
    except (MemoryError, RuntimeError) as error:
        if str(error) in _ONEDNN:
            _fail(_given_up(error), code=FAILED)
        if not _is_out_of_memory(error):
            raise
        _fail("out of memory; try a smaller --batch-size", code=FAILED)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a library in Rust raises: no Exception, and of no module
            raise
        _fail(_given_up(error), code=FAILED)


def _fail(text: str, *, code: int) -> NoReturn:
    with suppress(OSError):
        print(f"error: {text}", file=sys.stderr, flush=True)
    raise typer.Exit(code) from None


def _given_up(error: BaseException) -> str:
    return f"a library gave up ({error}), as it does out of memory; try a smaller --batch-size"


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space and run the command again"
    return f"{where}{error.strerror or error}"


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # not imported for this: a command that failed without it cannot be meant
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in _HOST_MEMORY)
