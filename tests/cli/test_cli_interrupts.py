"""Ctrl-C and SIGTERM at every line of the code around a run: the exit code is 130, or that of the finished command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ann2snn_distill.cli import app, convert, failures, process
from ann2snn_distill.cli.process import Interruptible
from ann2snn_distill.errors import GateMissedError, InterruptedRunError

TRACED = {module.__file__ for module in (app, convert, failures, process)}
COMMAND = ("convert", "test_resnet", "--dataset", "digits", "--json")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LeftAtOnce(BaseException):
    """Stands in for the end of the process."""


@pytest.fixture
def interruptible(monkeypatch):
    """What `main` makes, with a handler that does not outlive the test."""
    before = [signal.getsignal(number) for number in SIGNALS]

    def leave(code):
        raise LeftAtOnce(code)

    monkeypatch.setattr(os, "_exit", leave)
    try:
        yield make
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def make():
    made = Interruptible()
    made.catch()
    return made


class Striking:
    """Sends a signal to this process before the traced line of that number, and counts lines."""

    def __init__(self, number, strike):
        self._number, self._strike, self.lines = number, strike, 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._strike:
                signal.raise_signal(self._number)
        return self._trace


def code_of(interruptible, *, number=signal.SIGINT, strike=0):
    """Run the command, struck before a line; return the exit code and the number of lines."""
    made = interruptible()
    with Striking(number, strike) as striking:
        try:
            code = made.run(lambda: app.run(COMMAND))
        except LeftAtOnce as left:
            (code,) = left.args
    return code, striking.lines


def ends(result, error=None):
    """What stands in for a conversion: a result or a failure."""

    def convert(settings, observe):
        if error is not None:
            raise error
        return result

    return convert


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("failure", "code"),
    [(None, 0), (GateMissedError("missed"), 3), (InterruptedRunError("interrupted; go on"), 130)],
    ids=["done", "gate", "interrupted"],
)
def test_a_signal_before_any_line_gives_130_or_the_code_of_the_command(
    interruptible, pipeline, report, capsys, number, failure, code
):
    pipeline.convert = ends(report, failure)
    undisturbed, lines = code_of(interruptible)
    assert undisturbed == code
    assert lines > 20, "the code around a run is traced"
    found = [code_of(interruptible, number=number, strike=line)[0] for line in range(1, lines + 1)]
    assert set(found) <= {130, code}
    assert found[0] == 130, "it waits for the work, and is not lost"
    assert "Traceback" not in capsys.readouterr().err


def test_a_signal_before_the_work_waits_for_it_and_one_after_it_ends_the_process(interruptible):
    made, done = interruptible(), []
    signal.raise_signal(signal.SIGTERM)
    assert made.run(lambda: done.append("work") or 0) == 130
    assert not done
    made = interruptible()
    assert made.run(lambda: 3) == 3
    with pytest.raises(LeftAtOnce, match="3"):
        signal.raise_signal(signal.SIGINT)


def test_signals_that_come_together_are_one_and_a_later_one_is_another(interruptible, monkeypatch):
    clock, made, seen = iter([10.0, 10.4, 11.3, 12.5, 20.0]), interruptible(), []
    monkeypatch.setattr(process.time, "monotonic", lambda: next(clock))

    def work():
        for _ in range(5):
            try:
                signal.raise_signal(signal.SIGINT)
                seen.append("went on")
            except KeyboardInterrupt:
                seen.append("interrupted")
        return 0

    assert made.run(work) == 0
    assert seen == ["interrupted", "went on", "went on", "interrupted", "interrupted"]


def test_a_signal_while_python_itself_ends_changes_no_exit_code():
    """An object that outlives the handlers of `atexit` signals its own process when it is deleted."""
    program = (
        "import os, signal, sys\n"
        "from ann2snn_distill.cli.process import Interruptible\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, number=signal.SIGINT, own=os.getpid()):\n"
        "        kill(own, number)\n"
        "sys.kept = Last()\n"
        "made = Interruptible()\n"
        "made.catch()\n"
        "code = made.run(lambda: 3)\n"
        "sys.exit(code)\n"
    )
    root = str(Path(process.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_signal_that_the_process_ignores_from_the_start_stays_ignored(interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruptible()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_while_the_program_is_imported_leaves_no_traceback(tmp_path):
    """A package that stands in for torch says when it is imported, and takes its time."""
    (tmp_path / "torch.py").write_text("import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    program = "from ann2snn_distill.cli.process import main; main(['env'])"
    path = os.pathsep.join([str(tmp_path), str(Path(process.__file__).parents[2])])
    started = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    assert started.stderr.readline() == "here\n"
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, "error: interrupted\n")
