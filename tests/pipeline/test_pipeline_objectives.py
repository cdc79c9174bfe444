"""From settings to the objectives of a training's epochs."""

import pytest
import timm
import torch

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.neurons.fused import observe_terms
from ann2snn_distill.pipeline.objectives import spans_of
from ann2snn_distill.training.fit import Execution

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FAST = [
    Execution(CUDA, amp=True, compiled=compiled, captured=captured)
    for compiled, captured in ((True, True), (True, False), (False, True))
]
PLAIN = [
    Execution(CPU, amp=False, compiled=False),
    Execution(CPU, amp=True, compiled=True, captured=True),
    Execution(CUDA, amp=True, compiled=False),
]


def is_fused(objective):
    """Whether norms and sums run inside their neuron's operation."""
    return any(node.target is observe_terms for pair in objective.programs.pairs for node in pair.observe.graph.nodes)


def objectives(execution, method):
    """Those of a training with all three spans, and its teacher; nothing is run, so that no GPU is needed."""
    model = timm.create_model("test_resnet", num_classes=10).eval()
    network, teacher = (partitioned(model, img_size=32) for _ in range(2))
    student = SpikingNetwork(network, LIF, thresholds=uniform_thresholds(network.sites.neuron_names(), 1.0))
    positions = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    branches = HybridBranches(student.stages, StagedAnn(teacher), positions)
    lengths = {"epochs": 5, "quantized_epochs": 1, "finish_epochs": 2}
    settings = ConvertSettings(model="test_resnet", method=method, alpha=0.5, timesteps=2, train_timesteps=5, **lengths)
    spans = spans_of(settings, student, branches, execution)
    assert [span.epochs for span in spans] == [1, 2, 2]
    return [span.objective for span in spans], branches.teacher


@pytest.mark.parametrize("execution", PLAIN)
def test_all_spans_of_a_training_are_guided_by_one_teacher(execution):
    (first, middle, last), teacher = objectives(execution, "hybrid")
    assert first.guide is middle.guide is last.guide is teacher
    assert not is_fused(middle)


@pytest.mark.parametrize("execution", FAST)
def test_all_spans_of_a_fast_training_are_guided_by_one_folded_teacher(execution):
    (first, middle, last), teacher = objectives(execution, "hybrid")
    assert first.guide is middle.guide is last.guide
    assert first.guide is not teacher
    assert {parameter.dtype for parameter in first.guide.parameters()} == {torch.bfloat16}
    assert is_fused(middle)


def test_without_guidance_no_span_has_a_teacher():
    for execution in (*PLAIN, *FAST):
        for method in ("rate", "bptt"):
            found, _ = objectives(execution, method)
            assert all(getattr(objective, "guide", None) is None for objective in found)


@pytest.mark.parametrize("method", ["hybrid", "rate", "bptt"])
def test_all_spans_take_the_timesteps_of_the_training(method):
    found, _ = objectives(PLAIN[0], method)
    assert [objective.timesteps for objective in found] == [5, 5, 5]
