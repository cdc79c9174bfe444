"""A run does not depend on the fast path: fused, folded and compiled, it has the plain run's losses and weights."""

import shutil

import pytest
import torch
from hybrid_steps import IF, LIF, trained

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
