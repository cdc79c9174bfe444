"""`--branches` with paths of modules: the plan, the run, the file and `bench` have the finer cuts."""

import json

import pytest
from refusals import refused

from ann2snn_distill import pipeline
from ann2snn_distill.checkpoint import load_checkpoint, read_header, save_checkpoint
from ann2snn_distill.config import BenchSettings
from ann2snn_distill.events import silent

OWN = ["act1", "layer1", "layer2", "layer3", "layer4", "fc"]


@pytest.mark.parametrize("coverage", ["activations", "full"])
def test_a_run_cuts_where_it_is_told_as_planned_and_its_file_evaluates_equally(command, tiny, tmp_path, coverage):
    options = ("--branches", "layer2,conv1.2", "--coverage", coverage, "--epochs", 1, "--output", tmp_path / "run")
    plan = json.loads(command("convert", *tiny, *options, "--dry-run", "--json").out)
    assert plan["branches"] == ["conv1.2", "layer2"]
    assert [stage["name"] for stage in plan["stages"]] == ["conv1.2", *OWN, "head"]
    assert not (tmp_path / "run").exists()
    done = command("convert", *tiny, *options, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [branch["name"] for branch in report["branches"]] == plan["branches"]
    assert list(read_header(tmp_path / "run" / "student.safetensors").cuts) == ["conv1.2", *OWN]
    again = command("eval", tmp_path / "run" / "student.safetensors", "--json", "--device", "cpu")
    assert json.loads(again.out)["student"] == report["student"]
    shown = json.loads(command("inspect", tmp_path / "run" / "student.safetensors", "--json").out)
    assert [stage["name"] for stage in shown["stages"]] == ["conv1.2", *OWN, "head"]
    assert [stage["name"] for stage in shown["stages"] if stage["branch"]] == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize("words", ["--branches auto", "--branches layer2,head,fc", "--method rate --branches layer1.0"])
def test_further_cuts_are_only_where_guidance_names_them(command, tiny, words):
    plan = json.loads(command("convert", *tiny, *words.split(), "--dry-run", "--json").out)
    assert [stage["name"] for stage in plan["stages"]] == [*OWN, "head"]


def test_a_student_of_another_network_is_cut_where_its_teacher_has_no_such_module(command, tiny, tmp_path):
    options = ("--student", "resnet18", "--branches", "layer2.0,layer1.0", "--epochs", 1, "--output", tmp_path / "run")
    done = command("convert", *tiny, *options, "--json")
    assert done.code == 0, done.err
    assert [branch["name"] for branch in json.loads(done.out)["branches"]] == ["layer1.0", "layer2.0"]
    cuts = read_header(tmp_path / "run" / "student.safetensors").cuts
    assert [cut for cut in cuts if cut not in OWN] == ["layer1.0", "layer2.0"]


THERE = "this network has act1, layer1, layer2, layer3, layer4, fc, head"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("layer9", "no cut is named 'layer9', and no module"),
        ("layer1.0.act1", "'layer1.0.act1' cannot be a cut: 2 values cross its end, and one alone may"),
        ("layer1.0", "'layer1.0' cannot be a cut of its own: 'layer1' ends at the same place"),
        ("conv1.0", "'conv1.0' cannot be a cut: no neuron stands before its end"),
    ],
)
@pytest.mark.parametrize("name", ["convert", "dry run", "bench"])
def test_a_path_that_can_be_no_cut_exits_2_with_the_reason_and_the_cuts(command, tiny, tmp_path, name, path, reason):
    folder = tmp_path / "run"
    if name == "bench":
        options = "--img-size 16 --batch-size 2 --method hybrid --device cpu"
        arguments = ("bench", "test_resnet", *options.split())
    else:
        arguments = ("convert", *tiny, "--output", folder, *(["--dry-run"] if name == "dry run" else []))
    refused(command(*arguments, "--branches", f"layer2,{path}"), 2, f"{reason}; {THERE}")
    assert not folder.exists()


def test_bench_measures_with_the_cuts_that_are_named():
    values = {"model": "test_resnet", "img_size": 16, "batch_size": "2", "steps": 1, "device": "cpu", "timesteps": "1"}
    settings = BenchSettings.model_validate(values | {"branches": "layer2,conv1.2", "method": "rate,hybrid,ann"})
    found = pipeline.bench(settings, silent)
    assert found.branches == ("conv1.2", "layer2")
    assert all(row.milliseconds for row in found.rows)


def test_a_file_whose_cuts_its_network_cannot_have_is_refused(command, trained, tmp_path):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, tensors, header.model_copy(update={"cuts": ("layer1", "layer9")}))
    refused(command("eval", path, "--device", "cpu"), 1, "cannot be built here: no cut is named 'layer9'")
