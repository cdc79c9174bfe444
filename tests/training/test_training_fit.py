"""Training against a loop written by hand: the same weights, epoch by epoch."""

import copy
import math
from unittest import mock

import pytest
import torch

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.errors import InterruptedRunError
from ann2snn_distill.events import EpochDone, StepsDone
from ann2snn_distill.training import loop as looping
from ann2snn_distill.training.fit import Interval, Span
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.schedule import cosine_with_warmup


def by_hand(model, batches, *, epochs=3, opt="sgd", average=0.0, pieces=1, squared=0):
    """`squared`: the last so many epochs have the mean squared error of the probabilities as their loss."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    if opt == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0)
    mean = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
    step = 0
    for epoch in range(epochs):
        for x, target in batches.epoch(epoch):
            warm = (step + 1) / 4 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / (3 * epochs - 3)))
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * warm
            optimizer.zero_grad()
            for part, wanted in zip(x.chunk(pieces), target.chunk(pieces), strict=True):
                logits = model(part)
                loss = -(wanted * logits.log_softmax(1)).sum(1).mean()
                if epoch >= epochs - squared:
                    loss = (logits.softmax(1) - wanted).square().mean()
                (loss / pieces).backward()
            optimizer.step()
            for name, value in mean.items():
                value.mul_(average).add_((1 - average) * model.state_dict()[name])
            step += 1
    return mean if average else model.state_dict()


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("pieces", [1, 2])
def test_training_equals_a_loop_written_by_hand(trained, network, batches, tmp_path, opt, average, pieces):
    model = network()
    twin = copy.deepcopy(model)
    state, _ = trained(model, tmp_path, opt=opt, average=average, pieces=pieces)
    expected = by_hand(twin.train(), batches, opt=opt, average=average, pieces=pieces)
    for name, value in expected.items():
        torch.testing.assert_close(state.evaluated()[name], value, rtol=1e-4, atol=1e-6)


class Squared:
    """An objective with parts of its own."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x, target):
        loss = (self.model(x).softmax(1) - target).square().mean()
        return {"loss": loss, "squared": loss}


def then(model, *, squared, epochs=3):
    """The usual objective, and in the last epochs that of the squares."""
    spans = [Span(epochs - squared, AnnObjective(model)), Span(squared, Squared(model))]
    return [span for span in spans if span.epochs]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_last_epochs_may_have_another_objective(trained, network, batches, tmp_path, epochs):
    model = network()
    twin = copy.deepcopy(model)
    state, result = trained(model, tmp_path, spans=then(model, squared=epochs))
    expected = by_hand(twin.train(), batches, squared=epochs)
    for name, value in expected.items():
        torch.testing.assert_close(state.evaluated()[name], value, rtol=1e-4, atol=1e-6)
    assert [line.get("squared") is not None for line in result.history] == [n >= 3 - epochs for n in range(3)]


@pytest.mark.parametrize("stop", [4, 7, 8])
def test_a_training_resumed_in_its_last_span_or_before_equals_an_uninterrupted_one(trained, network, tmp_path, stop):
    """Two of three epochs have another objective, of three steps each; it stops in the first of them, or the last."""
    whole = network()
    expected, history = trained(whole, tmp_path / "whole", spans=then(whole, squared=2))
    parts, steps = network(), []

    def interrupt(event):
        if isinstance(event, StepsDone):
            steps.append(event.steps)
            if sum(steps) >= stop:
                raise KeyboardInterrupt

    with mock.patch.object(looping, "_REPORT_SECONDS", -1.0), pytest.raises(InterruptedRunError):
        trained(parts, tmp_path / "parts", spans=then(parts, squared=2), observe=interrupt)
    again = network()
    state, result = trained(again, tmp_path / "parts", spans=then(again, squared=2))
    for name, value in expected.tensors().items():
        assert torch.equal(state.tensors()[name], value), name
    timing = {"seconds", "images_per_second"}
    for line, other in zip(history.history, result.history, strict=True):
        assert {k: v for k, v in line.items() if k not in timing} == {k: v for k, v in other.items() if k not in timing}


def test_the_schedule_starts_low_peaks_after_the_warm_up_and_ends_near_zero():
    rates = [cosine_with_warmup(step, steps=100, warmup=10, peak=2.0) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert max(rates) == rates[10] == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_training_leaves_the_global_generator_where_it_was(trained, network, tmp_path):
    model = network(0.5)
    before = torch.random.get_rng_state()
    trained(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_line_names_its_parts_and_the_result_sums_them_up(trained, network, tmp_path):
    _, result = trained(network(), tmp_path)
    keys = ["epoch", "phase", "loss", "lr", "seconds", "images_per_second", "peak_memory_mib"]
    assert [list(line) for line in result.history] == [keys] * 3
    assert result.peak_memory_mib is None
    assert result.seconds == pytest.approx(sum(line["seconds"] for line in result.history))


def test_states_are_written_at_the_interval_and_at_the_end(trained, network, tmp_path):
    seen = []

    def observe(event):
        if isinstance(event, EpochDone):
            restart, _ = ResumeFolder(tmp_path, identity={}).load(lambda restart: None)
            seen.append(restart.epoch if restart else None)

    trained(network(), tmp_path, epochs=5, interval=Interval(epochs=2), observe=observe)
    assert seen == [None, 2, 2, 4, 5]


def test_within_as_evaluated_the_network_has_the_averaged_weights_and_after_it_its_own(trained, network, tmp_path):
    model = network()
    state, _ = trained(model, tmp_path, average=0.8)
    before, evaluated = state.snapshot(), state.evaluated()
    assert any(not torch.equal(model.state_dict()[name], evaluated[name]) for name in evaluated)
    with state.as_evaluated():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, evaluated[name])
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, before[name])
