"""Python's garbage collector stays out of imports and compilation, and comes back."""

import gc
import subprocess
import sys

import pytest

from ann2snn_distill.collector import uncollected


def test_it_is_off_within_and_on_again_after_it_whatever_happened():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt), uncollected():
        raise KeyboardInterrupt
    assert gc.isenabled()


def printed(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout.split()


def test_what_a_command_imports_is_not_looked_through():
    program = """
import gc
from ann2snn_distill.cli.app import run
whole = []
gc.callbacks.append(lambda phase, info: whole.append(info["generation"] == 2 and gc.get_freeze_count() == 0))
assert run(["inspect", "no_such_model"]) == 2
print(any(whole), gc.get_freeze_count() > 100_000, gc.isenabled())
"""
    assert printed(program) == ["False", "True", "True"]


def test_what_is_left_at_the_end_is_not_looked_through():
    program = """
import atexit, gc
from ann2snn_distill.cli.process import main
atexit.register(lambda: print(gc.get_freeze_count() > 0))
main(["--version"])
"""
    assert printed(program)[-1] == "True"
