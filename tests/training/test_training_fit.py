"""Training against a loop written by hand: the same weights, epoch by epoch."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.errors import BadInputError, InterruptedRunError
from ann2snn_distill.events import EpochDone, silent
from ann2snn_distill.training.fit import Execution, Plan, fit
from ann2snn_distill.training.resume import STATE_FILE, Restart, ResumeFolder
from ann2snn_distill.training.schedule import cosine_with_warmup
from ann2snn_distill.training.state import train_state

CPU = torch.device("cpu")


class Batches:
    """Six fixed images a step, three steps an epoch, other ones in each epoch."""

    batch_size = 6
    steps_per_epoch = 3

    def epoch(self, epoch):
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(self.steps_per_epoch):
            x = torch.randn(6, 4, generator=generator)
            labels = torch.randint(3, (6,), generator=generator)
            yield x, F.one_hot(labels, 3).float()


def network(dropout=0.0):
    torch.manual_seed(0)
    # No bias in front of the norm: its gradient is rounding noise, which AdamW would scale up to whole steps.
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )


def trained(model, folder, *, epochs=3, opt="sgd", average=0.0, pieces=1, observe=silent, **changes):
    state = train_state({"net": model}, opt=opt, weight_decay=0.1, average_decay=average)
    result = fit(
        "net",
        AnnObjective(model),
        Batches(),
        state,
        plan=Plan(epochs, 1.0, 0.05, **changes),
        execution=Execution(CPU, amp=False, compiled=False, pieces=pieces),
        resume=ResumeFolder(folder, identity={}),
        observe=observe,
    )
    return state, result


def by_hand(model, *, epochs=3, opt="sgd", average=0.0, pieces=1):
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
        for x, target in Batches().epoch(epoch):
            warm = (step + 1) / 4 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / (3 * epochs - 3)))
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * warm
            optimizer.zero_grad()
            for part, wanted in zip(x.chunk(pieces), target.chunk(pieces), strict=True):
                (-(wanted * model(part).log_softmax(1)).sum(1).mean() / pieces).backward()
            optimizer.step()
            for name, value in mean.items():
                value.mul_(average).add_((1 - average) * model.state_dict()[name])
            step += 1
    return mean if average else model.state_dict()


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("pieces", [1, 2])
def test_training_equals_a_loop_written_by_hand(tmp_path, opt, average, pieces):
    model = network()
    twin = copy.deepcopy(model)
    state, _ = trained(model.train(), tmp_path, opt=opt, average=average, pieces=pieces)
    expected = by_hand(twin.train(), opt=opt, average=average, pieces=pieces)
    for name, value in expected.items():
        torch.testing.assert_close(state.evaluated()[name], value, rtol=1e-4, atol=1e-6)


def test_the_schedule_starts_low_peaks_after_the_warm_up_and_ends_near_zero():
    rates = [cosine_with_warmup(step, steps=100, warmup=10, peak=2.0) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert max(rates) == rates[10] == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3


def interrupted_after(epoch):
    def observe(event):
        if isinstance(event, EpochDone) and event.epoch == epoch:
            raise KeyboardInterrupt

    return observe


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, opt, stop):
    whole, result = trained(network(0.5).train(), tmp_path / "whole", opt=opt, average=0.8)
    with pytest.raises(InterruptedRunError, match=f"after epoch {stop} of 3 is kept in"):
        trained(network(0.5).train(), tmp_path / "parts", opt=opt, average=0.8, observe=interrupted_after(stop))
    torch.rand(5)
    parts, again = trained(network(0.5).train(), tmp_path / "parts", opt=opt, average=0.8)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, parts.tensors()[name]), name
    assert [line["loss"] for line in result.history] == [line["loss"] for line in again.history]


def test_training_leaves_the_global_generator_where_it_was(tmp_path):
    model = network(0.5).train()
    before = torch.random.get_rng_state()
    trained(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_line_names_its_parts_and_the_result_sums_them_up(tmp_path):
    _, result = trained(network().train(), tmp_path)
    keys = ["epoch", "phase", "loss", "lr", "seconds", "images_per_second", "peak_memory_mib"]
    assert [list(line) for line in result.history] == [keys] * 3
    assert result.peak_memory_mib is None
    assert result.seconds == pytest.approx(sum(line["seconds"] for line in result.history))


def test_states_are_written_at_the_interval_and_at_the_end(tmp_path):
    seen = []

    def observe(event):
        if isinstance(event, EpochDone):
            restart, _ = ResumeFolder(tmp_path, identity={}).load()
            seen.append(restart.epoch if restart else None)

    trained(network().train(), tmp_path, epochs=5, checkpoint_interval=2, observe=observe)
    assert seen == [None, 2, 2, 4, 5]


def test_a_state_of_another_run_is_refused_with_both_values(tmp_path):
    state = Restart(1, {"a": torch.zeros(1)}, ())
    ResumeFolder(tmp_path, identity={"lr": 0.1, "opt": "sgd"}).save(state)
    with pytest.raises(BadInputError, match=r"lr was 0\.1 and is 0\.2"):
        ResumeFolder(tmp_path, identity={"lr": 0.2, "opt": "sgd"}).load()


def test_a_state_survives_the_journey_and_two_damaged_ones_are_told(tmp_path):
    folder = ResumeFolder(tmp_path / "resume", identity={"seed": 3})
    tensors = {"w": torch.randn(3, 2).t(), "n": torch.tensor(7), "h": torch.randn(4).bfloat16()}
    folder.save(Restart(4, tensors, ({"epoch": 4},)))
    restart, complaints = folder.load()
    assert (restart.epoch, restart.history, complaints) == (4, ({"epoch": 4},), [])
    assert all(torch.equal(restart.tensors[name], tensor) for name, tensor in tensors.items())
    folder.save(Restart(5, tensors, ()))
    for path in folder.folder.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    restart, complaints = folder.load()
    assert restart is None
    assert len(complaints) == 2
    folder.remove()
    assert not folder.folder.exists()
    assert STATE_FILE in complaints[0]
