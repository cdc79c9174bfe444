"""Two runs at once: each has an output folder of its own, or one of them is refused."""

import json
import sys
import tomllib

import pytest
from refusals import DIGITS, refused

from ann2snn_distill.errors import InterruptedRunError, UsageError
from ann2snn_distill.events import EpochDone
from ann2snn_distill.locks import locked
from ann2snn_distill.pipeline import outputs


@pytest.fixture
def overtaken(monkeypatch):
    """Let another run happen between the plan of a run and its first file."""
    module = sys.modules["ann2snn_distill.pipeline.convert"]  # the package's attribute is the function
    prepare = module.prepare

    def by(other):
        def prepared(settings):
            run = prepare(settings)
            monkeypatch.setattr(module, "prepare", prepare)
            other()
            return run

        monkeypatch.setattr(module, "prepare", prepared)

    return by


def test_runs_that_start_together_get_default_folders_of_their_own(
    command, tiny, tiny_settings, converting, overtaken, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    short = {"epochs": 1, "teacher_epochs": 1}
    overtaken(lambda: converting(tiny_settings(seed=1, **short)))
    done = command("convert", *tiny, "--epochs", 1)
    assert done.code == 0, done.err
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == ["test_resnet-shades-t2-1", "test_resnet-shades-t2-2"]
    for folder, seed in zip(folders, (1, 0), strict=True):
        assert tomllib.loads((folder / "config.toml").read_text())["seed"] == seed
        assert json.loads((folder / "report.json").read_text())["seed"] == seed
        assert not (folder / ".lock").exists()
    assert "written to runs/test_resnet-shades-t2-2" in done.out


def test_a_folder_in_which_a_run_is_at_work_is_refused_and_the_run_not_disturbed(
    command, tiny, tiny_settings, converting, tmp_path, monkeypatch
):
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    folder, met = tmp_path / "run", []

    def observe(event):
        if isinstance(event, EpochDone) and (folder / "metrics.jsonl").exists() and not met:
            met.append(event)
            for flags in (("--overwrite",), ("--resume", "auto")):
                done = command("convert", *tiny, "--output", folder, *flags)
                refused(done, 1, f"another run is at work in {folder}; wait for its end, or give another --output")
            plan = command("convert", *tiny, "--output", folder, "--overwrite", "--dry-run", "--json")
            assert json.loads(plan.out)["output"] == str(folder)

    converting(tiny_settings(output=folder, epochs=2, teacher_epochs=1), observe)
    assert met
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert (folder / "report.json").exists()
    assert not (folder / ".lock").exists()


def test_a_run_that_waited_for_another_does_not_replace_what_it_wrote(tiny_settings, converting, overtaken, tmp_path):
    settings = tiny_settings(output=tmp_path / "run", epochs=1, teacher_epochs=1)
    overtaken(lambda: converting(settings.model_copy(update={"seed": 1})))
    with pytest.raises(UsageError, match="is not empty"):
        converting(settings)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seed"] == 1
    overtaken(lambda: converting(settings.model_copy(update={"seed": 2, "overwrite": True})))
    with pytest.raises(UsageError, match="seed was 2 and is 1"):
        converting(settings.model_copy(update={"seed": 1, "resume": "auto"}))


def test_the_lock_of_a_run_that_was_killed_is_neither_a_run_nor_in_the_way(
    command, tiny, tiny_settings, converting, interrupting, tmp_path
):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=folder, epochs=2, teacher_epochs=1), interrupting("hybrid"))
    assert not (folder / ".lock").exists()
    (folder / ".lock").touch()
    done = command("convert", *tiny, "--resume", folder)
    assert done.code == 0, done.err
    assert not (folder / ".lock").exists()


def test_a_refused_run_takes_no_default_folder(command, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(command("convert", *tiny, "--branches", "nowhere"), 2)
    assert not list(tmp_path.iterdir())


def test_teach_does_not_write_where_a_run_is_at_work(command, shades, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_PATIENCE", 0.1)
    folder = tmp_path / "teacher"
    arguments = ("teach", "test_resnet", *DIGITS, "--output", folder)
    with locked(folder / ".lock", waiting=lambda seconds: None):
        refused(command(*arguments), 1, f"another run is at work in {folder}")
    assert [path.name for path in folder.iterdir()] == [".lock"]
