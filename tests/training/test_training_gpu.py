"""On CUDA: a captured and compiled step equals the plain one, and a resumed run the uninterrupted one."""

import json
import os
from threading import Event, Thread
from unittest import mock

import pytest
import torch
from hybrid_steps import batches, made, trained
from safetensors.torch import load_file
from torch.nn import functional as F

from ann2snn_distill import pipeline
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import InterruptedRunError
from ann2snn_distill.evaluation.totals import totals_over
from ann2snn_distill.events import EpochDone, PhaseStarted, StepsDone, silent
from ann2snn_distill.pipeline.guards import deterministic
from ann2snn_distill.training import loop as looping
from ann2snn_distill.training.gradients import Clip
from ann2snn_distill.training.step import LossTotals, captured_step, plain_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # the compiler's own warnings are not ours
CUDA = torch.device("cuda")
SAME = {"device": CUDA, "size": 32, "steps": 6}


def together(gradients):
    return torch.cat([gradient.flatten().double() for gradient in gradients.values()])


@pytest.mark.parametrize(
    "options",
    [{}, {"clip": Clip(0.5)}, {"clip": Clip(0.01, "agc")}, {"radius": 0.05}],
    ids=["whole", "norm", "agc", "uphill"],
)
def test_a_captured_step_equals_the_plain_one(options):
    plain, losses, _ = trained(torch.float32, **SAME, compiled=False, **options)
    captured, again, _ = trained(torch.float32, **SAME, compiled=False, captured=True, **options)
    for line, other in zip(losses, again, strict=True):
        assert other == pytest.approx(line, rel=1e-6)
    for name, tensor in plain.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_a_captured_float16_step_equals_the_plain_one():
    with deterministic(True):
        plain, losses, _ = trained(torch.float32, **SAME, compiled=False, autocast=torch.float16)
        captured, again, _ = trained(torch.float32, **SAME, compiled=False, captured=True, autocast=torch.float16)
    for line, other in zip(losses, again, strict=True):
        assert other == pytest.approx(line, rel=1e-3)
    assert torch.equal(captured["scaler.scale"], plain["scaler.scale"])
    assert captured["scaler.growth"] == plain["scaler.growth"] == SAME["steps"]
    for name, tensor in plain.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_captured_step_that_overflows_halves_the_scale_without_waiting_for_the_device():
    objective, state = made(torch.float32, CUDA, size=32, fast=False, autocast=torch.float16)
    totals = LossTotals(CUDA)
    step = plain_step(objective, state, totals, amp=True, device=CUDA, dtype=torch.float16)
    (batch,) = batches(torch.float32, CUDA, size=32, steps=1)
    step = captured_step(step, state, totals, x=batch[0], target_BK=batch[1])
    scale = state.tensors()["scaler.scale"]
    scale.fill_(2.0**60)
    before = state.snapshot()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert scale == 2.0**59
    learnt = [name for name in before if name.endswith(("weight", "bias")) and "average" not in name]
    assert len(learnt) > 50
    assert all(torch.equal(state.tensors()[name], before[name]) for name in learnt)
    scale.fill_(256.0)
    step(*batch)
    assert scale == 256.0
    assert any(not torch.equal(state.tensors()[name], before[name]) for name in learnt)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["captured", "compiled and captured"])
@pytest.mark.parametrize("learn_decay", [False, True])
def test_a_fast_step_equals_the_plain_one(learn_decay, is_compiled):
    """In float64, where no spike flips from another order of summation."""
    plain, losses, _ = trained(torch.float64, **SAME, compiled=False, learn_decay=learn_decay)
    options = {"compiled": is_compiled, "captured": True, "fused": True, "learn_decay": learn_decay}
    compiled, again, _ = trained(torch.float64, **SAME, **options)
    for line, other in zip(losses, again, strict=True):
        assert other == pytest.approx(line, rel=1e-5)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_the_first_gradient_of_a_compiled_step_points_where_the_plain_one_does():
    """Some spikes flip with the order of summation, so that the directions are compared, over all weights."""
    wanted, found = first_gradient(compiled=False), first_gradient(compiled=True)
    assert F.cosine_similarity(found, wanted, dim=0) > 0.999


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
def test_compilation_adds_no_error_to_that_of_rounding(autocast):
    """Rounding flips spikes, layer upon layer: plain bfloat16 has a cosine of about 0.5 with plain float32."""
    exact = first_gradient(compiled=False)
    plain, compiled = (first_gradient(compiled=compiled, autocast=autocast) for compiled in (False, True))
    rounding = F.cosine_similarity(plain, exact, dim=0)
    assert F.cosine_similarity(compiled, exact, dim=0) > rounding - 0.1


def first_gradient(*, compiled, autocast=None):
    once = SAME | {"steps": 1}
    _, _, gradients = trained(torch.float32, **once, compiled=compiled, captured=compiled, autocast=autocast)
    return together(dict(sorted(gradients.items())))


def test_a_measurement_replayed_from_a_graph_is_the_one_made_batch_by_batch(monkeypatch):
    """Accuracy is evaluated in exact float32, so that the two agree in every logit; the last batch is smaller."""
    objective, _ = made(torch.float32, CUDA, size=32, fast=False)
    student = objective.branches.teacher  # any network will do
    data = [(x, target.argmax(1)) for x, target in batches(torch.float32, CUDA, size=32, steps=5)]
    data.append((data[0][0][:3], data[0][1][:3]))

    def sums(x, labels):
        return {"sum": student(x).double().sum(), "labels": labels.sum()}

    replayed = totals_over(data, sums)
    monkeypatch.setattr(
        torch.cuda, "graph", mock.Mock(side_effect=RuntimeError("not permitted when stream is capturing"))
    )
    assert totals_over(data, sums) == replayed
    assert replayed[1] == 5 * 16 + 3


def test_a_step_and_a_measurement_are_captured_while_another_thread_pins_memory():
    """As the thread does that receives streamed images."""
    over, pinned = Event(), []

    def pin():
        while not over.is_set():
            pinned.append(torch.empty(2**20).pin_memory())
            del pinned[:-3]

    thread = Thread(target=pin)
    thread.start()
    try:
        captured, _, _ = trained(torch.float32, **SAME, compiled=False, captured=True)
        batch = torch.ones(4, device=CUDA), torch.ones(4, dtype=torch.long, device=CUDA)
        totals, images = totals_over([batch] * 50, lambda x, labels: {"sum": (x * labels).sum().double()})
    finally:
        over.set()
        thread.join()
    plain, _, _ = trained(torch.float32, **SAME, compiled=False)
    for name, tensor in plain.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert (totals, images) == ({"sum": 200.0}, 200)
    assert pinned


def test_a_measurement_that_waits_for_the_device_is_made_batch_by_batch():
    data = [(torch.full((2, 1), float(n), device=CUDA), torch.zeros(2, device=CUDA)) for n in range(4)]
    sums, count = totals_over(data, lambda x, labels: {"sum": torch.tensor(x.sum().item(), device=CUDA)})
    assert (sums, count) == ({"sum": 12.0}, 8)
    assert torch.ones(3, device=CUDA).sum() == 3  # the device is as usable as before


CAPTURED = {"torchcompile": False, "amp": False}
PLAIN = CAPTURED | {"cuda_graph": False}
EXACT = {"deterministic": True}
HALF = EXACT | {"amp_dtype": "float16"}


@pytest.mark.parametrize(
    "changes",
    [EXACT | PLAIN, EXACT | CAPTURED, EXACT, HALF, {}],
    ids=["plain", "captured", "compiled and captured", "float16", "default"],
)
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
