"""On CUDA: a captured and compiled step equals the plain one, and a resumed run the uninterrupted one."""

import json
import os
from unittest import mock

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ann2snn_distill import pipeline
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.branches import HybridBranches, choose_positions
from ann2snn_distill.distillation.losses import branch_weights
from ann2snn_distill.distillation.objectives import HybridObjective
from ann2snn_distill.errors import InterruptedRunError
from ann2snn_distill.evaluation.accuracy import exact_float32
from ann2snn_distill.events import EpochDone, PhaseStarted, StepsDone, silent
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.training import loop as looping
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import LossTotals, captured_step, plain_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # the compiler's own warnings are not ours
STEPS, SIZE, BATCH = 6, 32, 16


def made(dtype, *, fast, amp):
    """A fresh hybrid objective and its state on the device, always the same; plain, or in the fast form."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    student = partitioned(model, img_size=SIZE)
    student = SpikingNetwork(
        student,
        NeuronModel(0.2, 0.0, "soft-detached", 1.0),
        thresholds=uniform_thresholds(student.sites.neuron_names(), 1.0),
    ).to("cuda", dtype)
    teacher = StagedAnn(partitioned(model, img_size=SIZE)).to("cuda")
    positions = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    branches = HybridBranches(student.stages, teacher, positions).to("cuda")
    teacher.to(dtype)
    branches.to(dtype)
    objective = HybridObjective(
        student.in_training_fused if fast else student.in_training,
        branches,
        folded(teacher.network, dtype=torch.bfloat16 if amp else dtype) if fast else teacher,
        branch_weights(len(positions), "uniform"),
        timesteps=4,
        alpha=0.5,
        temperature=1.0,
    )
    state = train_state(
        {"student": student.body, "branches": branches}, opt="sgd", weight_decay=5e-4, average_decay=0.9
    )
    state.set_learning_rate(0.05)
    return objective, state


def batches(dtype):
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator).to("cuda", dtype)
        yield x, F.one_hot(torch.randint(10, (BATCH,), generator=generator), 10).float().to("cuda")


def run(dtype, *, captured, compiled, amp=False):
    """Return the state after some steps, and the mean of every loss part."""
    torch.compiler.reset()
    device = torch.device("cuda")
    objective, state = made(dtype, fast=compiled, amp=amp)
    totals = LossTotals(device)
    objective = torch.compile(objective, dynamic=False) if compiled else objective
    step = plain_step(objective, state, totals, amp=amp, device=device)
    with exact_float32():
        for index, (x, target) in enumerate(batches(dtype)):
            if captured and index == 0:
                step = captured_step(step, state, totals, x=x, target_BK=target)
            step(x, target)
            totals.count()
        return state.snapshot(), totals.means()


def test_a_captured_step_equals_the_plain_one():
    plain, losses = run(torch.float32, captured=False, compiled=False)
    captured, again = run(torch.float32, captured=True, compiled=False)
    assert losses == pytest.approx(again, rel=1e-6)
    for name, tensor in plain.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_a_captured_and_compiled_step_equals_the_plain_one():
    """In float64, where no spike flips from another order of summation."""
    plain, losses = run(torch.float64, captured=False, compiled=False)
    compiled, again = run(torch.float64, captured=True, compiled=True)
    assert again == pytest.approx(losses, rel=1e-5)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("amp", [False, True])
def test_a_compiled_step_in_the_precision_of_training_has_nearly_the_plain_losses(amp):
    _, losses = run(torch.float32, captured=False, compiled=False, amp=amp)
    _, again = run(torch.float32, captured=True, compiled=True, amp=amp)
    assert again == pytest.approx(losses, rel=0.05 if amp else 0.02)


PLAIN = {"torchcompile": False, "amp": False}
EXACT = {"deterministic": True}


@pytest.mark.parametrize("changes", [EXACT | PLAIN, EXACT, {}], ids=["plain", "compiled and captured", "default"])
@pytest.mark.parametrize(("kind", "after"), [(EpochDone, 2), (StepsDone, 3)], ids=["after an epoch", "within one"])
def test_a_resumed_run_equals_an_uninterrupted_one_on_cuda(tmp_path, monkeypatch, changes, kind, after):
    """Bit for bit with deterministic algorithms; by default the run is whole, and its report complete."""
    monkeypatch.setattr(looping, "_REPORT_SECONDS", -1.0)

    def convert(folder, observe=silent, **more):
        values = {"model": "test_resnet", "dataset": "digits", "limit": 256, "epochs": 3, "teacher_epochs": 1}
        settings = ConvertSettings.model_validate(
            values | {"timesteps": 2, "device": "cuda", "output": folder} | changes | more
        )
        with mock.patch.dict(os.environ, {"SNN_DISTILL_CACHE": str(tmp_path / "cache")}):
            return pipeline.convert(settings, observe)

    phases, seen = [], []

    def interrupt(event):
        if isinstance(event, PhaseStarted):
            phases.append(event.name)
        if isinstance(event, kind) and phases[-1].startswith("hybrid"):
            seen.append(event)
            if len(seen) == after:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"after (step 3 in epoch 1|epoch 2) of 3"):
        convert(tmp_path / "parts", interrupt)
    resumed = convert(tmp_path / "parts", resume="auto")
    whole = convert(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(line["peak_memory_mib"] > 0 for line in lines)
    assert resumed.training.peak_memory_mib == max(line["peak_memory_mib"] for line in lines)
    if "deterministic" in changes:
        first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts"))
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name
        assert whole.student == resumed.student
