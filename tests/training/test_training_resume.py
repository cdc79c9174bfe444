"""A training stopped at any step goes on bit for bit; a state is read whole or not at all."""

import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from ann2snn_distill.errors import BadInputError, InterruptedRunError
from ann2snn_distill.events import Caution, EpochDone, Note, StepsDone
from ann2snn_distill.files import is_leftover
from ann2snn_distill.interrupts import Interrupts
from ann2snn_distill.training import divergence
from ann2snn_distill.training import loop as looping
from ann2snn_distill.training import resume as resuming
from ann2snn_distill.training import state as states
from ann2snn_distill.training.fit import Interval
from ann2snn_distill.training.resume import Part, Restart, ResumeFolder

TIMING = {"seconds", "images_per_second"}
NEVER = Interval(epochs=1000)


def anything_fits(restart):
    return None


def assert_same(whole, parts):
    for name, tensor in whole[0].tensors().items():
        assert torch.equal(tensor, parts[0].tensors()[name]), name
    lines = [[{k: v for k, v in line.items() if k not in TIMING} for line in run[1].history] for run in (whole, parts)]
    assert lines[0] == lines[1]


def after_epoch(epoch):
    def observe(event):
        if isinstance(event, EpochDone) and event.epoch == epoch:
            raise KeyboardInterrupt

    return observe


def after_steps(steps):
    """Press Ctrl-C after so many steps of the process."""
    seen = []

    def observe(event):
        seen.extend([event] * isinstance(event, StepsDone))
        if len(seen) == steps:
            raise KeyboardInterrupt

    return observe


@pytest.fixture
def told_each_step(monkeypatch):
    monkeypatch.setattr(looping, "_REPORT_SECONDS", -1.0)


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_resumed_after_an_epoch_equals_an_uninterrupted_one(trained, network, tmp_path, opt, stop):
    whole = trained(network(0.5), tmp_path / "whole", opt=opt, average=0.8)
    with pytest.raises(InterruptedRunError, match=f"after epoch {stop} of 3 is kept in"):
        trained(network(0.5), tmp_path / "parts", opt=opt, average=0.8, observe=after_epoch(stop))
    torch.rand(5)
    assert_same(whole, trained(network(0.5), tmp_path / "parts", opt=opt, average=0.8))


@pytest.mark.usefixtures("told_each_step")
@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_interrupted_again_and_again_in_the_middle_of_epochs_equals_an_uninterrupted_one(
    trained, network, tmp_path, steps
):
    """Every process makes one step or two; dropout, mean losses and the average are in the comparison."""
    whole = trained(network(0.5), tmp_path / "whole", average=0.8)
    interruptions = 0
    while True:
        try:
            parts = trained(network(0.5), tmp_path / "parts", average=0.8, observe=after_steps(steps), interval=NEVER)
            break
        except InterruptedRunError:
            interruptions += 1
            torch.rand(3)
    assert interruptions >= 9 // steps - 1
    assert_same(whole, parts)


@pytest.mark.usefixtures("told_each_step")
def test_the_place_of_the_interruption_is_told_and_gone_on_from(trained, network, tmp_path):
    with pytest.raises(InterruptedRunError, match="after step 2 in epoch 2 of 3 is kept in"):
        trained(network(), tmp_path, observe=after_steps(5), interval=NEVER)
    events = []
    trained(network(), tmp_path, observe=events.append)
    assert Note("net: going on after step 2 in epoch 2 of 3") in events
    assert sum(event.steps for event in events if isinstance(event, StepsDone)) == 4


@pytest.mark.usefixtures("told_each_step")
def test_an_epoch_that_is_gone_on_with_took_what_its_first_part_took_too(trained, network, tmp_path):
    with pytest.raises(InterruptedRunError):
        trained(network(), tmp_path, observe=after_steps(5), interval=NEVER)
    restart, _ = ResumeFolder(tmp_path, identity={}).load(anything_fits)
    ResumeFolder(tmp_path, identity={}).save(replace(restart, part=replace(restart.part, seconds=1000.0)))
    _, done = trained(network(), tmp_path)
    seconds = [line["seconds"] for line in done.history]
    assert [value >= 1000 for value in seconds] == [False, True, False]


def test_minutes_write_states_in_the_middle_of_an_epoch(trained, network, batches, tmp_path):
    class Data:
        batch_size, steps_per_epoch = 6, 3

        def __init__(self, source):
            self.source = source

        def epoch(self, epoch, start=0):
            for step, batch in enumerate(self.source.epoch(epoch, start), start):
                restart, _ = ResumeFolder(tmp_path, identity={}).load(anything_fits)
                places.append(restart and (restart.epoch, restart.part.steps))
                assert step == len(places) - 1 - 3 * epoch
                yield batch

    places = []
    data = Data(batches)
    trained(network(), tmp_path, epochs=2, interval=Interval(minutes=1e-9), data=data)
    assert places == [None, (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_what_ends_a_training_costs_no_finished_step(trained, network, batches, tmp_path):
    class Broken:
        batch_size, steps_per_epoch = 6, 3

        def epoch(self, epoch, start=0):
            for step, batch in enumerate(batches.epoch(epoch, start), start):
                if (epoch, step) == (1, 2):
                    raise BadInputError("a process that decodes images was lost")
                yield batch

    whole = trained(network(0.5), tmp_path / "whole")
    with pytest.raises(BadInputError, match="was lost"):
        trained(network(0.5), tmp_path / "parts", interval=NEVER, data=Broken())
    restart, _ = ResumeFolder(tmp_path / "parts", identity={}).load(anything_fits)
    assert (restart.epoch, restart.part.steps) == (1, 2)
    assert_same(whole, trained(network(0.5), tmp_path / "parts"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(trained, network, tmp_path, number):
    class Signalling(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 5:
                os.kill(os.getpid(), number)
                for _ in range(1000):  # the interpreter has every chance to run the handler here
                    pass
            return self.inner(x)

    def as_interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(number, as_interrupt)
    try:
        with pytest.raises(InterruptedRunError, match="after step 2 in epoch 2 of 3"):
            trained(Signalling(network(0.5)), tmp_path / "parts", interval=NEVER)
        assert signal.getsignal(number) is as_interrupt
        whole = trained(network(0.5), tmp_path / "other")
    finally:
        signal.signal(number, before)
    resumed = trained(Signalling(network(0.5)), tmp_path / "parts")
    for name, tensor in whole[0].tensors().items():
        assert torch.equal(tensor, resumed[0].tensors()[name.replace("net.", "net.inner.")]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_state_is_written_costs_no_step(trained, network, tmp_path, monkeypatch, number):
    """`timeout` and job schedulers signal a process and its group; people press Ctrl-C twice."""
    written, stopping = ResumeFolder.save, iter(range(10_000))

    def struck(folder, restart):
        os.kill(os.getpid(), number)
        written(folder, restart)

    class Signalling(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if next(stopping) == 4:
                os.kill(os.getpid(), number)
            return self.inner(x)

    def as_interrupt(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumeFolder, "save", struck)
    before = signal.signal(number, as_interrupt)
    try:
        with pytest.raises(InterruptedRunError, match="after step 2 in epoch 2 of 3"):
            trained(Signalling(network(0.5)), tmp_path / "parts", interval=NEVER)
    finally:
        signal.signal(number, before)
    restart, complaints = ResumeFolder(tmp_path / "parts", identity={}).load(anything_fits)
    assert (restart.place, complaints) == ("step 2 in epoch 2", [])


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts().watched():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


class Rooted(nn.Module):
    """Its value is finite at 0, and its slope is not."""

    def forward(self, x):
        return x + (x - x.detach()).abs().sqrt()


class Poisoned:
    """Batches of which one holds a NaN."""

    batch_size, steps_per_epoch = 6, 3

    def __init__(self, batches, place):
        self.batches, self.place = batches, place

    def epoch(self, epoch, start=0):
        for step, (x, target) in enumerate(self.batches.epoch(epoch, start), start):
            yield x + (torch.nan if (epoch, step) == self.place else 0.0), target


@pytest.mark.parametrize(
    ("change", "place", "peak", "where"),
    [
        (None, None, 1e30, "epoch 1: it began in step 2, in net.4 (linear)"),
        (Rooted(), None, 0.05, "epoch 1: it began in step 1, in the gradient of net.1.bias"),
        (None, (1, 2), 0.05, "epoch 2: it began in step 3, in net.0 (linear)"),
    ],
    ids=["weights too large", "an infinite slope", "bad data"],
)
def test_a_diverged_training_names_where_it_began_and_keeps_the_state_before(
    trained, network, batches, tmp_path, change, place, peak, where
):
    model = network()
    if change is not None:
        model[2] = change
    with pytest.raises(BadInputError) as failure:
        trained(model, tmp_path, data=Poisoned(batches, place), peak=peak)
    assert f"the loss, a gradient or a weight of net is no longer finite in {where}; lower the learning rate" in str(
        failure.value
    )
    restart, _ = ResumeFolder(tmp_path, identity={}).load(anything_fits)
    assert restart.epoch == (1 if place else 0)
    assert all(tensor.isfinite().all() for tensor in restart.tensors.values())


def test_a_replay_that_does_not_fit_in_memory_is_no_failure_of_its_own(trained, network, tmp_path, monkeypatch):
    def full(*given, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(divergence, "plain_step", full)
    with pytest.raises(BadInputError) as failure:
        trained(network(), tmp_path, peak=1e30)
    assert "no longer finite in epoch 1; where it began is not known, as a replay" in str(failure.value)
    assert "lower the learning rate" in str(failure.value)


def test_training_goes_on_from_the_state_that_a_divergence_left(trained, network, batches, tmp_path):
    whole = trained(network(0.5), tmp_path / "whole")
    with pytest.raises(BadInputError, match="epoch 2: it began in step 3"):
        trained(network(0.5), tmp_path / "parts", data=Poisoned(batches, (1, 2)))
    assert_same(whole, trained(network(0.5), tmp_path / "parts"))


@pytest.mark.parametrize("stop", [3, 4], ids=["lent", "given back"])
def test_an_interruption_while_the_averaged_weights_are_lent_keeps_the_weights_themselves(
    trained, network, tmp_path, monkeypatch, stop
):
    """In the second epoch, between two tensors."""
    written, calls = states._write, []

    def stopped(tensors, values):
        calls.append(tensors)
        if len(calls) == stop:
            written(dict(list(tensors.items())[:1]), values)
            raise KeyboardInterrupt
        written(tensors, values)

    def measure(state):
        with state.as_evaluated():
            return {}

    whole = trained(network(0.5), tmp_path / "whole", average=0.8)
    monkeypatch.setattr(states, "_write", stopped)
    with pytest.raises(InterruptedRunError, match="after step 3 in epoch 2 of 3"):
        trained(network(0.5), tmp_path / "parts", average=0.8, measure=measure)
    monkeypatch.undo()
    assert_same(whole, trained(network(0.5), tmp_path / "parts", average=0.8, measure=measure))


TENSORS = {"w": torch.arange(6.0).reshape(3, 2).t(), "n": torch.tensor(7), "h": torch.ones(4).bfloat16()}


def test_a_state_of_another_run_is_refused_with_both_values(tmp_path):
    ResumeFolder(tmp_path, identity={"lr": 0.1, "opt": "sgd"}).save(Restart(1, TENSORS, ()))
    with pytest.raises(BadInputError, match=r"lr was 0\.1 and is 0\.2"):
        ResumeFolder(tmp_path, identity={"lr": 0.2, "opt": "sgd"}).load(anything_fits)


def test_what_an_earlier_release_did_not_write_down_is_not_compared(tmp_path):
    ResumeFolder(tmp_path, identity={"lr": 0.1}).save(Restart(1, TENSORS, ()))
    now = {"lr": 0.1, "weights": "abc"}
    assert ResumeFolder(tmp_path, identity=now, later=("weights",)).load(anything_fits)[0]
    with pytest.raises(BadInputError, match="weights was None and is abc"):
        ResumeFolder(tmp_path, identity=now).load(anything_fits)
    ResumeFolder(tmp_path, identity=now | {"weights": "abd"}).save(Restart(2, TENSORS, ()))
    with pytest.raises(BadInputError, match="weights was abd and is abc"):
        ResumeFolder(tmp_path, identity=now, later=("weights",)).load(anything_fits)


def test_a_state_of_a_newer_release_is_refused_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "FORMAT_VERSION", 2)
    ResumeFolder(tmp_path, identity={}).save(Restart(1, TENSORS, ()))
    monkeypatch.undo()
    with pytest.raises(BadInputError, match=r"newer snn-distill \(format 2, this one reads 1\): upgrade with pip"):
        ResumeFolder(tmp_path, identity={}).load(anything_fits)
    assert len(list(tmp_path.iterdir())) == 1


def renamed(restart):
    return replace(restart, tensors={f"{name}.x": tensor for name, tensor in restart.tensors.items()})


def widened(restart):
    return replace(restart, tensors={name: tensor.double() for name, tensor in restart.tensors.items()})


def of_a_later_epoch(restart):
    return replace(restart, epoch=7, history=restart.history * 7)


def of_a_later_step(restart):
    return replace(restart, part=Part(4))


def without_lines(restart):
    return replace(restart, history=())


def without_costs(restart):
    return replace(restart, history=({"epoch": 1},))


def with_a_text_for_a_cosine(restart):
    return replace(restart, history=({**restart.history[0], "cosine": "layer1"},))


MISFITS = {
    renamed: "its tensors are not those of this training",
    widened: "its tensors are not those of this training",
    of_a_later_epoch: "this training has no such epoch or step",
    of_a_later_step: "this training has no such epoch or step",
    without_lines: "this training has no such epoch or step",
    without_costs: "the lines of its epochs lack something",
    with_a_text_for_a_cosine: "the lines of its epochs lack something",
}


@pytest.mark.parametrize(("change", "reason"), MISFITS.items(), ids=[change.__name__ for change in MISFITS])
def test_a_whole_state_that_is_none_of_this_training_is_told_and_the_one_before_used(
    trained, network, tmp_path, change, reason
):
    whole = trained(network(0.5), tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match="after epoch 1"):
        trained(network(0.5), tmp_path / "parts", observe=after_epoch(1))
    folder = ResumeFolder(tmp_path / "parts", identity={})
    restart, _ = folder.load(anything_fits)
    folder.save(change(replace(restart, part=Part(1))))  # a later name than the good one's
    events = []
    assert_same(whole, trained(network(0.5), tmp_path / "parts", observe=events.append))
    (told,) = (event.text for event in events if isinstance(event, Caution))
    assert told.endswith(f"is damaged ({reason}); the state after epoch 1 is used")


def test_a_state_survives_the_journey(tmp_path):
    folder = ResumeFolder(tmp_path / "resume", identity={"seed": 3})
    saved = Restart(4, TENSORS, ({"epoch": 4},), Part(2, {"loss": 0.1}, 3.5, None))
    folder.save(saved)
    restart, complaints = folder.load(anything_fits)
    assert (restart.epoch, restart.history, restart.part, complaints) == (4, saved.history, saved.part, [])
    assert restart.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(restart.tensors[name], tensor) for name, tensor in TENSORS.items())
    folder.remove()
    assert not folder.folder.exists()


def test_two_states_are_kept_and_the_one_before_is_used_if_the_last_is_damaged(tmp_path):
    folder = ResumeFolder(tmp_path, identity={})
    for epoch in (8, 9, 10, 100):
        folder.save(Restart(epoch, TENSORS, ()))
    older, newer = sorted(tmp_path.iterdir())
    assert folder.load(anything_fits)[0].epoch == 100
    newer.write_bytes(newer.read_bytes()[:40])
    folder = ResumeFolder(tmp_path, identity={})
    restart, (complaint,) = folder.load(anything_fits)
    assert restart.epoch == 10
    assert f"{newer} is damaged" in complaint
    folder.save(Restart(10, TENSORS, (), Part(5)))
    assert sorted(tmp_path.iterdir())[0] == older  # the damaged one is gone, not the good one
    assert len(list(tmp_path.iterdir())) == 2


def test_where_no_whole_state_is_left_training_starts_again_and_says_so(trained, network, tmp_path):
    whole = trained(network(), tmp_path / "run")
    for path in (tmp_path / "run").iterdir():
        path.write_bytes(b"")
    events = []
    assert_same(whole, trained(network(), tmp_path / "run", observe=events.append))
    cautions = [event.text for event in events if isinstance(event, Caution)]
    assert len(cautions) == 2
    assert all(text.endswith("no whole state is left, so this training starts again") for text in cautions)


def test_no_flipped_bit_and_no_cut_goes_unnoticed(tmp_path):
    """1000 damages: each is told, or the bit stands where it means nothing and the state is the same."""
    folder = ResumeFolder(tmp_path, identity={"seed": 3})
    folder.save(Restart(4, TENSORS, ({"epoch": 4, "loss": 0.25},), Part(2, {"loss": 0.1}, 3.5)))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    first = folder.load(anything_fits)[0]
    noticed, draw = 0, random.Random(0)
    for trial in range(1000):
        damaged = bytearray(content)
        place = draw.randrange(len(content))
        if trial % 4:
            damaged[place] ^= 1 << draw.randrange(8)
        else:
            del damaged[place:]
        path.write_bytes(damaged)
        restart, complaints = ResumeFolder(tmp_path, identity={"seed": 3}).load(anything_fits)
        if restart is None:
            noticed += len(complaints)
        else:
            assert (restart.epoch, restart.history, restart.part) == (first.epoch, first.history, first.part)
            assert all(torch.equal(restart.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert noticed >= 980


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".state-000001-00000000.safetensors.x1y2.tmp").write_bytes(b"half")
    ResumeFolder(tmp_path, identity={}).save(Restart(1, TENSORS, ()))
    assert not any(is_leftover(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_states_before_stay_until_the_next_is_whole(tmp_path, monkeypatch, call):
    """A process killed at either call, played by an exception that nothing catches."""
    folder = ResumeFolder(tmp_path, identity={})
    folder.save(Restart(1, TENSORS, ()))
    folder.save(Restart(2, TENSORS, ()))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(os, call, killed)
    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(SystemExit):
        folder.save(Restart(3, TENSORS, ()))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
