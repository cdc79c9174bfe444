"""How a step is made ready: captured where that was asked for, and said so where it takes long."""

import gc
import time

import pytest
import torch
from torch import nn

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.training import step as stepping
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import Execution, LossTotals, ready_step

CUDA = torch.device("cuda")


def made_ready(monkeypatch, *, captured, compiled=False, seconds=0.0):
    """Whether the step was captured, and what was said; the capture itself, which needs a GPU, is a stand-in."""
    said, captures = [], []

    def capture(step, *_, **__):
        captures.append(step)
        assert not gc.isenabled(), "the collector goes through all that a compilation makes"
        deadline = time.monotonic() + seconds
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        return step

    monkeypatch.setattr(stepping, "captured_step", capture)
    monkeypatch.setattr(time, "perf_counter", lambda: 7.0)  # what is said does not depend on how busy the machine is
    monkeypatch.setattr(torch, "compile", lambda objective, **_: objective)
    network = nn.Linear(4, 3)
    state = train_state({"net": network}, opt="sgd", weight_decay=0.0)
    how = Execution(CUDA, amp=False, compiled=compiled, captured=captured)
    totals = LossTotals(torch.device("cpu"))
    x, target = torch.ones(2, 4), torch.eye(3)[:2]
    ready_step(AnnObjective(network), state, totals, how, x=x, target_BK=target, note=said.append)
    assert gc.isenabled()
    return bool(captures), said


@pytest.mark.parametrize(
    ("captured", "compiled", "wanted"),
    [
        (False, False, []),
        (False, True, []),
        (True, False, ["step captured in 0 s"]),
        (True, True, ["step compiled and captured in 0 s"]),
    ],
)
def test_a_step_is_captured_where_that_was_asked_for(monkeypatch, captured, compiled, wanted):
    assert made_ready(monkeypatch, captured=captured, compiled=compiled) == (captured, wanted)


def test_a_compilation_that_takes_long_says_how_to_do_without(monkeypatch):
    monkeypatch.setattr(stepping, "_SLOW_SECONDS", 0.05)
    _, said = made_ready(monkeypatch, captured=True, compiled=True, seconds=60.0)
    assert "--no-torchcompile starts at once" in said[0]
    assert len(said) == 2


def test_a_capture_alone_has_nothing_to_do_without(monkeypatch):
    monkeypatch.setattr(stepping, "_SLOW_SECONDS", 0.0)
    _, said = made_ready(monkeypatch, captured=True, compiled=False, seconds=0.2)
    assert said == ["step captured in 0 s"]
