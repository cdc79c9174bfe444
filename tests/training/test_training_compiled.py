"""A run does not depend on the fast path: fused, folded and compiled, it has the plain run's losses and weights."""

import shutil
from functools import partial

import pytest
import torch
from hybrid_steps import IF, LIF, trained
from torch import nn
from torch._dynamo.testing import CompileCounter

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import Execution, LossTotals, ready_step

pytestmark = [
    pytest.mark.filterwarnings("default"),  # the compiler's own warnings are not ours
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles for the CPU with a C++ compiler"),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "student",
    [
        pytest.param({"neuron": LIF}, id="lif"),
        pytest.param({"neuron": IF}, id="if", marks=pytest.mark.slow),
        pytest.param({"neuron": LIF, "learn_decay": True}, id="learnt decays", marks=pytest.mark.slow),
    ],
)
def test_the_loss_curve_and_the_weights_of_a_compiled_run_are_the_plain_ones(student):
    """In float64, where no spike flips from another order of summation."""
    plain, losses, gradients = trained(torch.float64, CPU, size=16, steps=5, compiled=False, **student)
    compiled, again, found = trained(torch.float64, CPU, size=16, steps=5, compiled=True, **student)
    assert len({round(line["loss"], 6) for line in losses}) == 5  # the run goes somewhere
    for line, other in zip(losses, again, strict=True):
        assert other == pytest.approx(line, rel=1e-5)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert found.keys() == gradients.keys()
    assert all(gradient.any() for name, gradient in found.items() if name.endswith("weight"))


def test_the_twelfth_training_of_a_process_is_compiled_as_the_first(monkeypatch):
    """PyTorch compiles a code object eight times, and from then on runs it uncompiled without an error."""
    count = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    how = Execution(CPU, amp=False, compiled=True)
    found = []
    for width in range(2, 14):
        network = nn.Linear(width, 3)
        state = train_state({"net": network}, opt="sgd", weight_decay=0.0)
        x, target_BK = torch.randn(4, width), torch.eye(3)[[0, 1, 2, 0]]
        totals = LossTotals(CPU)
        ready_step(AnnObjective(network), state, totals, how, x=x, target_BK=target_BK)(x, target_BK)
        found.append(count.frame_count)
    assert found == list(range(1, 13))
