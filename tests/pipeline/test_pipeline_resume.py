"""An interrupted and resumed run equals an uninterrupted one, bit for bit; other settings are refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from faults import assert_same_run
from safetensors.torch import load_file

from ann2snn_distill.errors import BadInputError, InterruptedRunError, UsageError
from ann2snn_distill.events import EpochDone, Note, PhaseStarted, StepsDone
from ann2snn_distill.pipeline import distilling
from ann2snn_distill.training import fit as fitting
from ann2snn_distill.training import loop as looping


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


RECIPES = {
    "hybrid": {},
    "adamw, average, mixed images": {"opt": "adamw", "model_ema": 0.9, "mixup": 0.4, "cutmix": 1.0},
    "rate": {"method": "rate", "aa": "cifar10", "cutout": 4},
    "bptt": {"method": "bptt", "neuron": "if", "grad_accum_steps": 2, "batch_size": 6},
    "learnt decays": {"method": "rate", "learn_decay": True, "model_ema": 0.9},
    "float16": {"amp": True, "amp_dtype": "float16"},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_settings, converting, interrupting, tmp_path, recipe):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    converting(tiny_settings(output=whole, **recipe))
    method = str(recipe.get("method", "hybrid"))
    with pytest.raises(InterruptedRunError, match=r"after epoch 1 of 3 .*; go on with --resume .*parts"):
        converting(tiny_settings(output=parts, resume="auto", **recipe), interrupting(method))
    assert files_of(parts) == {"config.toml", "metrics.jsonl", "resume/state-000001-00000000.safetensors"}
    assert len((parts / "metrics.jsonl").read_text().splitlines()) == 1
    converting(tiny_settings(output=parts, resume="auto", **recipe))
    assert_same_run(whole, parts)
    assert not (parts / "resume").exists()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_interrupted_in_the_middle_of_epochs_goes_on_from_the_very_step(
    tiny_settings, converting, interrupting, tmp_path, monkeypatch, recipe
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    converting(tiny_settings(output=whole, **recipe))
    monkeypatch.setattr(looping, "_REPORT_SECONDS", -1.0)
    method = str(recipe.get("method", "hybrid"))
    for after, place in ((2, "step 2 in epoch 1"), (2, "step 1 in epoch 2"), (4, "step 2 in epoch 3")):
        with pytest.raises(InterruptedRunError, match=f"after {place} of 3"):
            converting(tiny_settings(output=parts, resume="auto", **recipe), interrupting(method, StepsDone, after))
    converting(tiny_settings(resume=str(parts), **recipe))
    assert_same_run(whole, parts)


@pytest.mark.parametrize("precision", [{}, RECIPES["float16"]], ids=["float32", "float16"])
def test_a_teachers_training_is_resumed_exactly_even_with_dropout(
    tiny_settings, converting, interrupting, tmp_path, precision
):
    changes = {"epochs": 1, "teacher_epochs": 3, "model_kwargs": {"drop_rate": 0.5}} | precision
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    converting(tiny_settings(output=whole, **changes), cache=tmp_path / "first")
    with pytest.raises(InterruptedRunError, match=r"teacher test_resnet after epoch 2 of 3"):
        converting(tiny_settings(output=parts, **changes), interrupting("teacher", after=2), cache=tmp_path / "second")
    torch.rand(7)  # what the process drew meanwhile changes nothing
    notes = []
    converting(tiny_settings(output=parts, resume="auto", **changes), notes.append, cache=tmp_path / "second")
    assert Note("teacher test_resnet: going on after epoch 2 of 3") in notes
    assert_same_run(whole, parts)
    assert not list((tmp_path / "second" / "teachers").glob("*.resume"))


def test_an_interruption_after_the_last_epoch_repeats_the_evaluation_alone(
    tiny_settings, converting, interrupting, tmp_path
):
    with pytest.raises(InterruptedRunError, match="after epoch 3 of 3"):
        converting(tiny_settings(output=tmp_path / "run"), interrupting("hybrid", after=3))
    events = []
    converting(tiny_settings(output=tmp_path / "run", resume="auto"), events.append)
    assert not any(isinstance(event, EpochDone) for event in events)
    assert (tmp_path / "run" / "report.json").exists()


def test_a_complete_run_is_left_as_it_is(command, tiny, tmp_path):
    folder = tmp_path / "run"
    first = command("convert", *tiny, "--output", folder, "--resume", "auto", "--json")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = command("convert", *tiny, "--output", folder, "--resume", "auto", "--json")
    assert (again.code, again.out) == (0, first.out)
    assert "holds a complete run; nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    gated = command("convert", *tiny, "--resume", folder, "--max-drop", -100)
    assert gated.code == 3


def test_other_settings_are_refused_with_both_values_and_nothing_changes(
    command, tiny, tiny_settings, converting, interrupting, tmp_path
):
    folder = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=folder, epochs=2, teacher_epochs=1), interrupting("hybrid"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = command("convert", *tiny, "--output", folder, "--resume", "auto", "--lr", 0.3, "--opt", "adamw")
    assert done.code == 2
    assert re.search(r"lr was 0\.0093750*1? and is 0\.3\b", done.err)
    assert "opt was sgd and is adamw" in done.err
    assert "--overwrite" in done.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    free = command(
        "convert", *tiny, "--output", folder, "--resume", "auto", "--checkpoint-interval", 1, "--min-accuracy", 0
    )
    assert free.code == 0, free.err


def test_projections_are_fitted_where_a_run_begins_and_not_where_it_goes_on(
    tiny_settings, converting, interrupting, tmp_path, monkeypatch
):
    fits = []
    plain = distilling.fit_projections
    monkeypatch.setattr(distilling, "fit_projections", lambda *given: fits.append(given) or plain(*given))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    converting(tiny_settings(output=whole))
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=parts), interrupting("hybrid"))
    assert len(fits) == 2
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=parts, resume="auto"), interrupting("hybrid"))
    assert len(fits) == 2
    for damaged in (parts / "resume").iterdir():
        damaged.write_bytes(damaged.read_bytes()[:-1])
    converting(tiny_settings(output=parts, resume="auto"))
    assert len(fits) == 3
    assert torch.equal(*(load_file(f / "student.safetensors")["fc.weight"] for f in (whole, parts)))


def test_a_damaged_state_is_told_and_the_one_before_it_used(tiny_settings, converting, interrupting, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    converting(tiny_settings(output=whole))
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=parts, checkpoint_interval="1"), interrupting("hybrid", after=2))
    state = max((parts / "resume").iterdir())
    content = bytearray(state.read_bytes())
    content[-5] ^= 1
    state.write_bytes(content)
    events = []
    converting(tiny_settings(output=parts, resume="auto"), events.append)
    texts = [event.text for event in events if hasattr(event, "text")]
    (told,) = (text for text in texts if "is damaged" in text)
    assert "checksum" in told
    assert told.endswith("the state after epoch 1 is used")
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2, 3]
    report = json.loads((parts / "report.json").read_text())
    assert any("is damaged" in text for text in report["warnings"])
    assert torch.equal(*(load_file(f / "student.safetensors")["fc.weight"] for f in (whole, parts)))


def test_a_diverging_loss_stops_and_the_last_good_state_is_kept(command, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    done = command("convert", *tiny, "--output", folder, "--lr", 1e30)
    assert done.code == 1
    assert re.search(
        r"hybrid test_resnet is no longer finite in epoch 1: it began in step 2, after student\.[\w.]+ \(\w+\); "
        r"start again with --overwrite and a lower --lr \(the state after epoch 0 is kept in .*\)$",
        done.err,
    )
    assert done.err.count("error:") == 1
    (path,) = (folder / "resume").iterdir()
    state = load_file(path)
    assert all(tensor.isfinite().all() for tensor in state.values())
    again = command("convert", *tiny, "--output", folder, "--lr", 0.01, "--overwrite")
    assert again.code == 0, again.err


def test_a_diverging_loss_under_sam_may_be_its_radius(command, tiny, tmp_path):
    done = command("convert", *tiny, "--output", tmp_path / "run", "--lr", 1e-3, "--sam", 3e38)
    assert done.code == 1
    assert re.search(
        r"it began in step 1, .*, 3e\+38 uphill of the weights; .* a lower --lr or --sam \(",
        done.err,
    )


def test_a_weight_that_turns_infinite_in_the_last_step_is_noticed(tiny_settings, converting, tmp_path, monkeypatch):
    class Poison(fitting.Loop):
        def line(self):
            if len(self.history) == 1 and "student_ce" in super().line():
                with torch.no_grad():
                    next(iter(self.state.tensors().values())).view(-1)[0] = float("inf")
            return super().line()

    whole = tmp_path / "whole"
    converting(tiny_settings(output=whole))
    monkeypatch.setattr(fitting, "Loop", Poison)
    with pytest.raises(BadInputError, match=r"epoch 2, though a replay in plain code stays finite; .*after epoch 1 is"):
        converting(tiny_settings(output=tmp_path / "run"))
    monkeypatch.undo()
    converting(tiny_settings(output=tmp_path / "run", resume="auto"))
    assert_same_run(whole, tmp_path / "run")


def test_resume_of_a_folder_without_a_run_is_refused(command, tiny, tmp_path):
    done = command("convert", *tiny, "--resume", tmp_path / "nothing")
    assert (done.code, (tmp_path / "nothing").exists()) == (2, False)
    assert "there is no run in" in done.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    done = command("convert", *tiny, "--resume", "auto", "--output", tmp_path / "other")
    assert done.code == 2
    assert "holds other files and no run" in done.err
    done = command("convert", *tiny, "--resume", tmp_path / "nothing", "--output", tmp_path / "other")
    assert done.code == 2
    assert "leave --output out" in done.err


def test_a_state_of_other_data_is_refused(tiny_settings, converting, interrupting, shades, tmp_path):
    import shutil

    data = tmp_path / "shades"
    shutil.copytree(shades, data)
    settings = tiny_settings(output=tmp_path / "run", dataset=str(data))
    with pytest.raises(InterruptedRunError):
        converting(settings, interrupting("hybrid"))
    next((data / "train" / "dark").iterdir()).unlink()
    with pytest.raises((BadInputError, UsageError), match="other settings"):
        converting(settings.model_copy(update={"resume": "auto"}))


def test_a_state_under_another_teacher_of_the_same_name_is_refused(
    tiny_settings, converting, interrupting, taught_file, tmp_path
):
    file = taught_file(tmp_path / "teacher.safetensors", seed=0)
    settings = tiny_settings(output=tmp_path / "run", checkpoint=str(file))
    with pytest.raises(InterruptedRunError):
        converting(settings, interrupting("hybrid"))
    again = settings.model_copy(update={"resume": "auto"})
    kept = file.read_bytes()
    taught_file(file, seed=1)
    with pytest.raises(BadInputError, match=r"other settings \(teacher_weights was \w+ and is \w+\)"):
        converting(again)
    file.write_bytes(kept)
    converting(again)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_130_and_a_state(tiny, cache, command, tmp_path, number):
    folder = tmp_path / "run"
    arguments = ["convert", *map(str, tiny), "--epochs", "2000", "--output", str(folder)]
    program = "from ann2snn_distill.cli.process import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "SNN_DISTILL_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300  # a guard against a hang
    while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    (line,) = (text for text in err.splitlines() if text.startswith("error:"))
    assert re.search(r"interrupted; the state of hybrid test_resnet after (step \d+ in )?epoch \d+ of 2000 is", line)
    assert f"go on with --resume {folder}" in line
    assert len(list((folder / "resume").glob("state-*.safetensors"))) == 1
    assert not list(folder.rglob("*.tmp"))


def test_the_phase_is_announced_with_the_steps_that_are_left(tiny_settings, converting, interrupting, tmp_path):
    with pytest.raises(InterruptedRunError):
        converting(tiny_settings(output=tmp_path / "run"), interrupting("hybrid"))
    events = []
    converting(tiny_settings(output=tmp_path / "run", resume="auto"), events.append)
    started, measured = (event for event in events if isinstance(event, PhaseStarted))
    assert (measured.name, measured.total) == ("test images", 12)
    assert (started.total, started.total - started.done) == (9, 6)
    assert sum(event.steps for event in events if isinstance(event, StepsDone)) == 6 + 12
