"""A batch runs each conversion once, keeps on over failures, and goes on where it was."""

import csv
import io
import os
import signal
import threading
import time
import tomllib
from pathlib import Path

import pytest
from batch_files import GRID
from PIL import Image

from ann2snn_distill.batch import planned
from ann2snn_distill.batch.jobs import resolved_jobs
from ann2snn_distill.errors import BadInputError, InterruptedRunError, UsageError
from ann2snn_distill.locks import locked
from ann2snn_distill.reporting.batch_summary import BatchSummary


def calls(folder: Path) -> dict[str, int]:
    """How often each run's process was started."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in folder.glob("*/calls")}


def test_every_run_gets_its_own_folder_and_the_resolved_settings(runs, batch, tmp_path):
    summary = batch(runs(GRID))
    assert [run.state for run in summary.runs] == ["finished"] * 4
    assert [(run.timesteps, run.seed) for run in summary.runs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [run.top1 for run in summary.runs] == [91.0, 91.1, 92.0, 92.1]
    assert set(calls(tmp_path / "out").values()) == {1}
    for run in summary.runs:
        settings = tomllib.loads((tmp_path / "out" / "records" / f"{run.folder}.toml").read_text())
        assert (settings["timesteps"], settings["seed"]) == (run.timesteps, run.seed)
        assert settings["batch_size"] == 32, "defaults are filled in"


def test_a_run_cuts_its_batch_itself_where_that_is_left_to_it(runs, batch, tmp_path):
    one = '[[run]]\nmodel = "test_resnet"\ndataset = "digits"\nbatch_size = "auto"\ndevice = "cpu"\n'
    (run,) = batch(runs(one)).runs
    settings = tomllib.loads((tmp_path / "out" / "records" / f"{run.folder}.toml").read_text())
    assert settings["batch_size"] == "auto"
    assert settings["lr"] == pytest.approx(0.1 * 32 / 128), "by the recipe's batch"


def test_the_means_over_seeds_are_those_of_the_runs(runs, batch):
    summary = batch(runs(GRID))
    assert [(group.varied, group.finished) for group in summary.groups] == [
        ({"timesteps": 1}, 2),
        ({"timesteps": 2}, 2),
    ]
    assert [group.top1_mean for group in summary.groups] == pytest.approx([91.05, 92.05])
    assert summary.groups[0].top1_deviation == pytest.approx(0.05 * 2**0.5)
    assert summary.groups[1].drop_mean == pytest.approx(99 - 92.05)


def test_a_finished_run_is_not_run_again_whatever_it_is_called_now(runs, batch, tmp_path):
    first = batch(runs(GRID))
    renamed = GRID.replace("[[grid]]", '[[grid]]\nname = "other"')
    second = batch(runs(renamed))
    assert all(run.name.startswith("other-") for run in second.runs)
    assert [run.folder for run in second.runs] == [run.folder for run in first.runs]
    assert set(calls(tmp_path / "out").values()) == {1}


@pytest.mark.parametrize("change", ["epochs = 3", "limit = 65", "seed = 4", 'neuron = "if"'])
def test_a_run_with_other_settings_or_data_is_another_run_even_under_the_same_name(runs, batch, tmp_path, change):
    one = '[[run]]\nname = "one"\nmodel = "test_resnet"\ndataset = "digits"\nwarmup_epochs = 0.0\ndevice = "cpu"\n'
    plain = "epochs = 2\nlimit = 64\n"
    key = change.split()[0]
    kept = "".join(line + "\n" for line in plain.splitlines() if not line.startswith(key))
    batch(runs(one + plain))
    batch(runs(one + kept + change))
    assert len(calls(tmp_path / "out")) == 2


def test_a_fingerprint_does_not_depend_on_the_runs_beside_it(runs, tmp_path):
    for split, count in (("train", 8), ("val", 2)):
        for label in ("ant", "bee"):
            folder = tmp_path / "insects" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (72, 72), (index, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "insects" / "train" / "ant" / "bad.png").write_bytes(b"no image")
    head = f'[defaults]\nmodel = "test_resnet"\ndataset = "{tmp_path / "insects"}"\nbatch_size = 4\ndevice = "cpu"\n'
    strict, lax = "[[run]]\nname = 'strict'\n", "[[run]]\nname = 'lax'\nskip_bad_images = true\n"
    orders = [{job.name: job.fingerprint for job in resolved_jobs(runs(head + text))} for text in
              (strict + lax, lax + strict, strict, lax)]  # fmt: skip
    assert orders[0] == orders[1] == orders[2] | orders[3]
    assert len(set(orders[0].values())) == 2


def test_a_default_written_out_is_the_same_run(runs, batch, tmp_path):
    batch(runs(GRID))
    batch(runs(GRID.replace("limit = 64", "limit = 64\nbatch_size = 32\ndecay = 0.2")))
    assert set(calls(tmp_path / "out").values()) == {1}
    assert len(calls(tmp_path / "out")) == 4


def test_a_failed_run_is_reported_and_the_others_go_on(runs, batch, tmp_path):
    text = GRID.replace("seed = [0, 1]", "seed = [13, 1]")
    summary = batch(runs(text))
    assert [run.state for run in summary.runs] == ["failed", "finished"] * 2
    assert summary.runs[0].reason == "the loss is no longer finite in epoch 1; lower the rate"
    again = batch(runs(text))
    assert again == summary
    assert set(calls(tmp_path / "out").values()) == {1}, "neither the failed nor the finished are run again"


def test_failed_runs_are_tried_again_on_request(runs, batch, tmp_path):
    text = GRID.replace("seed = [0, 1]", "seed = [13, 1]")
    batch(runs(text))
    (tmp_path / "out" / "healed").touch()
    summary = batch(runs(text), retry_failed=True)
    assert [run.state for run in summary.runs] == ["finished"] * 4
    assert sorted(calls(tmp_path / "out").values()) == [1, 1, 2, 2]


def test_a_process_that_is_killed_is_a_failed_run(runs, batch):
    summary = batch(runs(GRID), command=("sh", "-c", "kill -KILL $$"))
    assert {run.state for run in summary.runs} == {"failed"}
    assert "ended by SIGKILL" in summary.runs[0].reason
    assert "fewer --jobs" in summary.runs[0].reason


def test_a_process_that_says_nothing_is_a_failed_run_with_its_log(runs, batch):
    summary = batch(runs(GRID), command=("sh", "-c", "exit 7"))
    assert "exit code 7; see " in summary.runs[0].reason
    assert summary.runs[0].reason.endswith(".log")


def test_a_missed_gate_is_told_from_the_report_and_may_be_changed_without_a_run(runs, batch, tmp_path):
    summary = batch(runs(GRID.replace("limit", "min_accuracy = 91.5\nlimit")))
    assert [run.state for run in summary.runs] == ["missed", "missed", "finished", "finished"]
    assert summary.runs[0].reason == "the student's 91.00 % is below --min-accuracy 91.5"
    summary = batch(runs(GRID.replace("limit", "max_drop = 7.95\nlimit")))
    assert [run.state for run in summary.runs] == ["missed", "finished", "finished", "finished"]
    assert set(calls(tmp_path / "out").values()) == {1}


def test_as_many_runs_go_on_at_once_as_there_are_slots(runs, batch):
    seen = []
    slow = GRID.replace("warmup_epochs = 0.0", "warmup_epochs = 0.3")
    batch(runs(slow), slots=3, watch=lambda board: seen.append(sum(view.state == "running" for view in board)))
    assert max(seen) == 3


def test_the_board_shows_how_far_a_run_is(runs, batch):
    seen = set()
    slow = GRID.replace("warmup_epochs = 0.0", "warmup_epochs = 0.4")
    batch(runs(slow), slots=4, watch=lambda board: seen.update(view.detail for view in board))
    assert "epoch 1 of 2" in seen


def test_an_interrupted_batch_tells_its_runs_once_and_goes_on_where_it_was(runs, batch, tmp_path):
    slow = runs(GRID.replace("warmup_epochs = 0.0", "warmup_epochs = 0.6"))

    def interrupt() -> None:
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(InterruptedRunError, match="give the same command again to go on"):
        batch(slow)
    thread.join()
    left = BatchSummary.model_validate_json((tmp_path / "out" / "summary.json").read_text())
    states = [run.state for run in left.runs]
    assert "interrupted" in states or "waiting" in states
    assert "failed" not in states
    assert [run.state for run in batch(slow).runs] == ["finished"] * 4


def test_a_folder_in_which_a_batch_is_at_work_is_refused(runs, batch, tmp_path, monkeypatch):
    monkeypatch.setattr("ann2snn_distill.batch.records._PATIENCE", 0.1)
    lock = tmp_path / "out" / "records" / "lock"
    with locked(lock, waiting=lambda _: None), pytest.raises(BadInputError, match="another batch, or a run that it"):
        batch(runs(GRID))
    assert batch(runs(GRID)).count("finished") == 4


def test_two_runs_that_compute_the_same_are_refused_before_anything_starts(runs, batch, tmp_path):
    twin = '[[run]]\nname = "a"\ntimesteps = 1\nseed = 0\nbatch_size = 32\n'
    with pytest.raises(UsageError, match="would compute the same, setting for setting"):
        batch(runs(GRID + twin))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("test_resnet", "test_resnt"), r"run .*: timm knows no model 'test_resnt'; did you mean"),
        (('"digits"', '"digitz"'), r"run .*: unknown data set \"digitz\"; did you mean digits"),
        (("limit = 64", "limit = 99999"), r"run .*: --limit 99999 asks for more than the"),
        (("limit = 64", "limit = 16\nbatch_size = 32"), r"run .*: a batch of 32 is larger than the 16"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(runs, batch, tmp_path, change, text):
    with pytest.raises((UsageError, BadInputError), match=text):
        batch(runs(GRID.replace(*change)))
    assert not (tmp_path / "out").exists()


def test_planning_writes_nothing(runs, batch, tmp_path):
    board = planned(runs(GRID), tmp_path / "out", retry_failed=False)
    assert [view.state for view in board] == ["waiting"] * 4
    assert not (tmp_path / "out").exists()
    batch(runs(GRID))
    assert [view.state for view in planned(runs(GRID), tmp_path / "out", retry_failed=False)] == ["finished"] * 4


def test_a_damaged_record_is_taken_for_none(runs, batch, tmp_path):
    batch(runs(GRID))
    for path in (tmp_path / "out" / "records").glob("*.json"):
        path.write_text('{"label": "../../elsewhere", "state": "finished"}')
    assert batch(runs(GRID)).count("finished") == 4
    assert not (tmp_path.parent / "elsewhere").exists()


def test_the_csv_has_a_line_for_every_run_and_a_column_for_what_varies(runs, batch, tmp_path):
    summary = batch(runs(GRID + "\n[[run]]\nalpha = 0.25\n"))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "summary.csv").read_text())))
    assert [line["name"] for line in lines] == [run.name for run in summary.runs]
    assert [float(line["top1"]) for line in lines] == [run.top1 for run in summary.runs]
    assert [line["alpha"] for line in lines] == ["0.5"] * 4 + ["0.25"]


def test_epochs_that_vary_are_one_column_of_the_csv(runs, batch, tmp_path):
    batch(runs(GRID + "\n[[run]]\nepochs = 3\n"))
    names, *lines = csv.reader(io.StringIO((tmp_path / "out" / "summary.csv").read_text()))
    assert len(set(names)) == len(names)
    assert [len(line) for line in lines] == [len(names)] * 5
