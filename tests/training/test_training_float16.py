"""float16's gradients are scaled: an overflow costs a step and no more, and a restart knows the scale."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.errors import BadInputError, InterruptedRunError
from ann2snn_distill.events import StepsDone
from ann2snn_distill.training import loop as looping
from ann2snn_distill.training.fit import Interval
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import LossTotals, plain_step

CPU = torch.device("cpu")
FIRST_SCALE = 65536.0


class Loud:
    """Batches of which some weigh so much that their gradients leave float16's range, at the first scales."""

    batch_size, steps_per_epoch = 6, 3

    def __init__(self, batches, places, weight=1000.0):
        self.batches, self.places, self.weight = batches, places, weight

    def epoch(self, epoch, start=0):
        for step, (x, target) in enumerate(self.batches.epoch(epoch, start), start):
            yield x, target * (self.weight if (epoch, step) in self.places else 1)


class Rooted(nn.Module):
    """Its value is finite at 0, and its slope is not."""

    def forward(self, x):
        return x + (x - x.detach()).abs().sqrt()


def learnt(state):
    """Weights and what the optimiser keeps of them; statistics move in a step that is skipped, too."""
    return {name: t.clone() for name, t in state.tensors().items() if not name.startswith(("net.1.run", "net.1.num"))}


@pytest.fixture
def stepping(network):
    """A float16 step of a small network, and its state."""

    def make(opt="sgd"):
        model = network().train()
        state = train_state({"net": model}, opt=opt, weight_decay=0.1, scaled=True)
        state.set_learning_rate(0.05)
        objective, totals = AnnObjective(model), LossTotals(CPU)
        return plain_step(objective, state, totals, amp=True, device=CPU, dtype=torch.float16), state

    return make


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_an_overflow_halves_the_scale_and_leaves_the_weights_alone(stepping, batches, opt):
    step, state = stepping(opt)
    (x, target), *_ = batches.epoch(0)
    step(x, target)
    before = learnt(state)
    assert (before.pop("scaler.scale"), before.pop("scaler.growth")) == (FIRST_SCALE, 1)
    step(x, 1000 * target)
    after = learnt(state)
    assert (after.pop("scaler.scale"), after.pop("scaler.growth")) == (FIRST_SCALE / 2, 0)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    step(x, target)
    moved = learnt(state)
    assert (moved.pop("scaler.scale"), moved.pop("scaler.growth")) == (FIRST_SCALE / 2, 1)
    assert not any(torch.equal(moved[name], tensor) for name, tensor in before.items())


def test_the_scale_doubles_after_2000_steps_without_an_overflow(stepping, batches):
    step, state = stepping()
    state.tensors()["scaler.scale"].fill_(1024.0)
    state.tensors()["scaler.growth"].fill_(1998)
    scales = []
    for batch in batches.epoch(0):
        step(*batch)
        scales.append(state.tensors()["scaler.scale"].item())
    assert scales == [1024.0, 2048.0, 2048.0]


def by_hand(model, data, opt, dtype):
    """One epoch with torch's own scaler and an optimiser that is not fused; return the scale."""
    weights, others = ([p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    momentum = {"momentum": 0.9, "nesterov": True}
    optimizer = torch.optim.SGD(groups, lr=0.05, **momentum) if opt == "sgd" else torch.optim.AdamW(groups, lr=0.05)
    scaler = GradScaler("cpu", enabled=dtype is torch.float16)
    for x, target in data.epoch(0):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            logits = model(x)
        loss = -(target * logits.float().log_softmax(1)).sum(1).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return scaler.get_scale()


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_steps_in_every_precision_are_those_of_a_loop_written_by_hand(network, batches, opt, dtype):
    """The second batch overflows in float16, and in no other type."""
    model, data, scaled = network().train(), Loud(batches, {(0, 1)}), dtype is torch.float16
    twin = copy.deepcopy(model)
    state = train_state({"net": model}, opt=opt, weight_decay=0.1, scaled=scaled)
    state.set_learning_rate(0.05)
    how = {"amp": dtype is not None, "dtype": dtype or torch.bfloat16}
    step = plain_step(AnnObjective(model), state, LossTotals(CPU), device=CPU, **how)
    for batch in data.epoch(0):
        step(*batch)
    scale = by_hand(twin, data, opt, dtype)
    assert state.tensors().get("scaler.scale", 1) == scale == (FIRST_SCALE / 2 if scaled else 1)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_float16_training_interrupted_again_and_again_equals_an_uninterrupted_one(
    trained, network, batches, tmp_path, monkeypatch, opt, steps
):
    """Scale and steps without an overflow, too: every process makes one step or two, and two steps overflow."""
    monkeypatch.setattr(looping, "_REPORT_SECONDS", -1.0)
    how = {"data": Loud(batches, {(0, 1), (1, 2)}), "average": 0.8, "dtype": torch.float16, "opt": opt}
    whole, _ = trained(network(0.5), tmp_path / "whole", **how)
    interruptions = 0
    while True:
        seen = []

        def observe(event, seen=seen):
            seen.extend([event] * isinstance(event, StepsDone))
            if len(seen) == steps:
                raise KeyboardInterrupt

        try:
            parts, _ = trained(network(0.5), tmp_path / "parts", **how, observe=observe, interval=Interval(epochs=1000))
            break
        except InterruptedRunError:
            interruptions += 1
            torch.rand(3)
    assert interruptions >= 9 // steps - 1
    assert (whole.tensors()["scaler.scale"], whole.tensors()["scaler.growth"]) == (FIRST_SCALE / 4, 3)
    assert whole.tensors().keys() == parts.tensors().keys()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, parts.tensors()[name]), name


def test_gradients_that_overflow_at_every_scale_are_a_divergence_that_names_the_layer(trained, network, tmp_path):
    """The scale falls from 2^16 to 2^-1 in 17 steps, the second step of the sixth epoch."""
    model = network()
    model[2] = Rooted()
    with pytest.raises(
        BadInputError, match=r"a gradient or a weight of net .* in epoch 6: it began in step 2, in the "
    ):
        trained(model, tmp_path, epochs=10, dtype=torch.float16)
    restart, _ = ResumeFolder(tmp_path, identity={}).load(lambda restart: None)
    assert (restart.epoch, restart.tensors["scaler.scale"]) == (5, 2.0)


def test_a_loss_that_is_not_finite_is_a_divergence_in_float16_too(trained, network, batches, tmp_path):
    """It does not depend on the scale, so that no other scale would mend it."""
    data = Loud(batches, {(1, 1)}, weight=torch.inf)
    with pytest.raises(BadInputError, match=r"net is no longer finite in epoch 2: it began in step 2, after net\.4"):
        trained(network(), tmp_path, data=data, dtype=torch.float16)
    restart, _ = ResumeFolder(tmp_path, identity={}).load(lambda restart: None)
    assert (restart.epoch, restart.tensors["scaler.scale"]) == (1, FIRST_SCALE)
