"""A student that is trained with more timesteps than it runs."""

import json

import pytest
from safetensors.torch import load_file

from ann2snn_distill.checkpoint import read_header
from ann2snn_distill.pipeline import settling
from ann2snn_distill.recipes import SMALL


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def folders(command, tiny, tmp_path):
    """The folders of a student of one timestep that was trained with two, and of a student of two; all else is one.

    Everything that takes timesteps before the end takes part: thresholds, equalising, projections, the average.
    """
    found = {}
    for name, flags in {"one of two": "--timesteps 1 --train-timesteps 2", "two": "--timesteps 2"}.items():
        folder = tmp_path / name
        done = command("convert", *tiny, *flags.split(), "--equalize", "--model-ema", 0.9, "--output", folder)
        assert done.code == 0, done.err
        told = "trained with 2 timesteps, of which the SNN runs the first 1 (--train-timesteps)"
        assert (told in done.err) == (name == "one of two")
        found[name] = folder
    return found


def test_it_has_the_weights_of_one_that_runs_them_all_and_its_accuracy_after_the_first(folders):
    few, all_of_them = (load_file(folder / "student.safetensors") for folder in folders.values())
    assert few.keys() == all_of_them.keys()
    assert all(few[name].equal(all_of_them[name]) for name in few)
    report, longer = (report_of(folder) for folder in folders.values())
    assert report["timesteps"] == 1
    assert report["student"]["top1_at"] == {"1": longer["student"]["top1_at"]["1"]}


def test_its_file_says_both_numbers(folders):
    header = read_header(folders["one of two"] / "student.safetensors")
    assert (header.timesteps, header.training["train_timesteps"]) == (1, 2)
    assert header.thresholds == read_header(folders["two"] / "student.safetensors").thresholds


def test_eval_runs_as_many_as_the_student_has(command, folders):
    done = command("eval", folders["one of two"] / "student.safetensors", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["student"]["top1_at"] == report_of(folders["one of two"])["student"]["top1_at"]


def test_the_memory_is_that_of_the_training(command, tiny):
    plans = [command("convert", *tiny, "--train-timesteps", steps, "--dry-run", "--json") for steps in (2, 4)]
    few, many = (json.loads(plan.out)["memory"]["step, MiB (estimate)"] for plan in plans)
    assert few < many


def test_a_recipe_can_ask_for_more_than_it_runs(command, tiny, monkeypatch):
    monkeypatch.setattr(settling, "recipe_for", lambda **measures: SMALL)

    def settings(*flags):
        return json.loads(command("convert", *tiny, *flags, "--dry-run", "--json").out)["settings"]

    long = ("--init", "scratch", "--epochs", 80)
    assert settings(*long)["train_timesteps"] == 4
    assert settings(*long, "--train-timesteps", 2)["train_timesteps"] == 2
    assert "train_timesteps" not in settings("--init", "teacher", "--epochs", 80)


def test_fewer_than_it_runs_are_refused(command, tiny, tmp_path):
    done = command("convert", *tiny, "--train-timesteps", 1, "--output", tmp_path / "run")
    assert (done.code, done.err) == (
        2, "error: train_timesteps 1 is fewer than the 2 timesteps of the SNN; give 2 or more, or fewer timesteps\n"
    )  # fmt: skip
    assert not (tmp_path / "run").exists()
