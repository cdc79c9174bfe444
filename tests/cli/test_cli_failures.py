"""Every failure is one line on stderr and an exit code; a reader that went away is no failure."""

import errno
import os

import pytest
import torch
from pydantic import BaseModel

from ann2snn_distill import errors
from ann2snn_distill.cli.output import emit


class Bounded(BaseModel):
    number: int


FAILURES = [
    (errors.BadInputError("the folder is empty; add images"), 1, "the folder is empty; add images"),
    (errors.UsageError("unknown model"), 2, "unknown model"),
    (errors.GateMissedError("missed"), 3, "missed"),
    (errors.UnsupportedModelError("no rule for erf"), 4, "no rule for erf"),
    (
        errors.InterruptedRunError("interrupted after epoch 3; --resume auto goes on"),
        130,
        "interrupted after",
    ),
    (KeyboardInterrupt(), 130, "interrupted"),
    (OSError(errno.ENOSPC, "No space left", "out/x"), 1, "out/x: the disk is full; free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "out/x"), 1, "out/x: Permission denied"),
    (torch.OutOfMemoryError("CUDA"), 1, "out of memory; try a smaller --batch-size"),
    (MemoryError(), 1, "out of memory"),
    (type("PanicException", (BaseException,), {})("null"), 1, "a library gave up (null), as it does out of memory"),
    (
        RuntimeError("could not create a primitive"),
        1,
        "a library gave up (could not create a primitive), as it does out",
    ),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1, "out of memory"),
]


@pytest.mark.parametrize(("failure", "code", "text"), FAILURES)
def test_a_failure_is_one_line_and_its_exit_code(run, pipeline, failure, code, text):
    def convert(settings, observe):
        raise failure

    pipeline.convert = convert
    done = run("convert", "test_resnet", "--dataset", "digits")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"error: {text}")
    assert done.err.count("\n") == 1


def test_a_settings_error_of_the_pipeline_is_wrong_usage(run, pipeline):
    pipeline.plan = lambda settings, observe: Bounded(number="x")
    done = run("convert", "test_resnet", "--dataset", "digits", "--dry-run")
    assert (done.code, done.err) == (2, "error: --number must be a whole number, not x\n")


def test_a_defect_keeps_its_traceback(run, pipeline):
    def convert(settings, observe):
        raise RuntimeError("a defect")

    pipeline.convert = convert
    with pytest.raises(RuntimeError, match="a defect"):
        run("convert", "test_resnet", "--dataset", "digits")


def test_a_closed_pipe_is_no_failure(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        emit("a result that nobody reads")
        emit("and more")
        monkeypatch.undo()
