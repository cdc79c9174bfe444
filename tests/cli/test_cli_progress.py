"""Progress: bars on a terminal; elsewhere a line a phase, and one a minute in a long one."""

import io

import pytest
from rich.console import Console

from ann2snn_distill.cli import render
from ann2snn_distill.events import Caution, EpochDone, Note, PhaseDone, PhaseStarted, StepsDone

RUN = (
    PhaseStarted("training the student", total=4),
    StepsDone(2, images_per_second=1234.5, losses={"guidance": 0.25}),
    EpochDone(1, 2, {"loss": 0.5}),
    Note("a [note] with brackets"),
    StepsDone(2),
    EpochDone(2, 2, {"loss": 0.125, "top1": 98.5}),
    PhaseDone(),
    PhaseStarted("evaluating"),
    StepsDone(1),
    Caution("spikes are rare"),
    PhaseDone(),
)


def test_without_a_terminal_there_is_one_line_a_phase(capsys):
    with render.observing() as observe:
        for event in RUN:
            observe(event)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 4
    assert lines[0] == "a [note] with brackets"
    assert lines[1].startswith("training the student: 2 epochs, ")
    assert lines[1].endswith("s, loss 0.125 top1 98.5")
    assert lines[2] == "warning: spikes are rare"
    assert lines[3].startswith("evaluating: ")


def test_without_a_terminal_a_long_phase_says_how_far_it_is_once_a_minute(monkeypatch, capsys):
    now = iter(range(0, 10_000, 25))  # seconds; every look at the clock takes 25
    monkeypatch.setattr(render.time, "perf_counter", lambda: next(now))
    with render.observing() as observe:
        observe(PhaseStarted("training", total=40, done=4))
        for _ in range(4):
            observe(StepsDone(4))
        observe(EpochDone(1, 2, {"images_per_second": 1234.5, "loss": 0.5}))
        for _ in range(5):
            observe(StepsDone(4))
    said = capsys.readouterr().err.splitlines()
    assert said == ["training, 40%", "training: epoch 1 of 2, 60%, 1,234 images/s, loss 0.5",
                    "training: epoch 1 of 2, 90%, 1,234 images/s, loss 0.5"]  # fmt: skip


def test_on_a_terminal_bars_show_speed_losses_and_epochs(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, markup=False)
    progress = render._bars(console)
    with progress:
        observe = render.ProgressObserver(console, progress)
        for event in RUN[:3]:
            observe(event)
        (task,) = progress.tasks
        assert (task.completed, task.total) == (2, 4)
        assert task.description == "training the student 1/2"
        assert task.fields == {"speed": "1,234 images/s", "losses": "guidance 0.25"}
        progress.refresh()
        assert "1,234 images/s guidance 0.25" in screen.getvalue()
        for event in RUN[3:]:
            observe(event)
        assert not progress.tasks


def test_on_a_terminal_a_bar_of_a_resumed_phase_begins_where_the_phase_does():
    progress = render._bars(Console(file=io.StringIO(), force_terminal=True, width=160, markup=False))
    with progress:
        observe = render.ProgressObserver(progress.console, progress)
        observe(PhaseStarted("training", total=40, done=10))
        observe(StepsDone(4))
        (task,) = progress.tasks
        assert (task.completed, task.total) == (14, 40)


@pytest.mark.parametrize("event", [StepsDone(1, 10.0, {"loss": 1.0}), EpochDone(1, 1, {}), PhaseDone()])
def test_an_event_outside_a_phase_is_harmless(event):
    with render.observing() as observe:
        observe(event)
