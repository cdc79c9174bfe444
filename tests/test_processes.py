"""`in_processes`: the same results in the same order, and no process that outlives an interruption."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.processes import in_processes

SLEEPERS = """
import os, time
from ann2snn_distill.cli.process import Interruptible
from ann2snn_distill.processes import in_processes

def work(seconds):
    print(f"at work {os.getpid()}", flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    interruptible = Interruptible()
    interruptible.catch()
    raise SystemExit(interruptible.run(lambda: list(in_processes(work, [600.0] * 4, processes=2))))
"""


def slower_first(value):
    time.sleep(0.0 if value else 3.0)
    return value, os.getpid()


def test_results_come_in_the_order_of_the_values():
    found = list(in_processes(slower_first, range(8), processes=2))
    assert [value for value, _ in found] == list(range(8))
    assert os.getpid() not in {process for _, process in found}


def test_one_process_is_this_one():
    assert list(in_processes(slower_first, [3], processes=1)) == [(3, os.getpid())]


def test_a_lost_process_is_an_error():
    with pytest.raises(BadInputError, match="was lost; memory may have run out"):
        list(in_processes(os._exit, [9, 9], processes=2))


def test_what_a_process_prints_is_no_result(capfd):
    list(in_processes(print, ["from a library"] * 2, processes=2))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "from a library" in captured.err


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interruption_ends_all_processes_at_once(tmp_path, number, group):
    """A terminal sends Ctrl-C to the whole group, a scheduler SIGTERM to the process it started."""
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    started = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = [started.stderr.readline() for _ in range(2)]  # both work at the same time
    (os.killpg if group else os.kill)(started.pid, number)
    rest = started.communicate(timeout=60)[1]
    assert started.returncode == 130
    assert rest == ""
    for line in lines:
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.removeprefix("at work ")), 0)
