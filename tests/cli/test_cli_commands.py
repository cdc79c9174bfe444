"""Each command calls the pipeline and shows what it returns: tables, or JSON alone on stdout."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ann2snn_distill.errors import GateMissedError
from ann2snn_distill.events import Caution, Note

CONVERT = ("convert", "test_resnet", "--dataset", "digits")


def test_convert_shows_the_result_the_folder_and_the_gates(run, pipeline, tmp_path):
    done = run(*CONVERT, "--min-accuracy", "97")
    assert done.code == 0
    for fact in ("99.50 %", "98.00 %", "1.50 points", "75.00 %", "trained on digits", str(tmp_path / "run")):
        assert fact in done.out
    assert "gate --min-accuracy 97: met (98.00 %)" in done.out


def test_convert_leaves_the_default_output_to_the_run_and_shows_what_it_chose(run, pipeline, tmp_path):
    done = run(*CONVERT)
    assert pipeline.calls[0][1][0].output is None, "two runs that start together would choose the same"
    assert f"written to {tmp_path / 'run'}" in done.out.replace("\n", "")


def test_json_is_alone_on_stdout(run, pipeline, report):
    def convert(settings, observe):
        print("a library prints")
        observe(Note("the teacher is cached"))
        observe(Caution("zero spikes in stage1"))
        return report

    pipeline.convert = convert
    done = run(*CONVERT, "--json")
    assert json.loads(done.out) == report.model_dump(mode="json")
    assert done.err.splitlines() == [
        "a library prints",
        "the teacher is cached",
        "warning: zero spikes in stage1",
    ]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_missed_gate_shows_the_result_and_exits_3(run, pipeline, report, flags):
    def convert(settings, observe):
        error = GateMissedError("98.00 % is below --min-accuracy 99")
        error.report = report
        raise error

    pipeline.convert = convert
    done = run(*CONVERT, "--min-accuracy", "99", *flags)
    assert done.code == 3
    assert done.err == "error: 98.00 % is below --min-accuracy 99\n"
    if flags:
        assert json.loads(done.out)["student"]["top1"] == 98.0
    else:
        assert "gate --min-accuracy 99: missed (98.00 %)" in done.out


def test_a_dry_run_only_plans(run, pipeline):
    done = run(*CONVERT, "--dry-run")
    assert done.code == 0
    assert [name for name, _ in pipeline.calls] == ["plan"]
    for fact in ("plan", "steps", "9", "settings", "test_resnet", "stages", "stem", "99.68 %", str(1 / 3)):
        assert fact in done.out
    planned = json.loads(run(*CONVERT, "--dry-run", "--json").out)
    assert planned["steps"] == 9
    assert planned["coverage"]["share"] == 0.9968


def test_teach_shows_the_teacher(run, pipeline, tmp_path):
    done = run("teach", "test_resnet", "--dataset", "digits", "--epochs", "2")
    assert done.code == 0
    assert "99.50" in done.out
    assert str(tmp_path) in done.out
    assert json.loads(run("teach", "test_resnet", "--dataset", "digits", "--json").out)["top1"] == 99.5


def test_inspect_shows_stages_layers_roles_and_coverage(run, pipeline):
    done = run("inspect", "test_resnet", "--classes", "7")
    assert done.code == 0
    for fact in (
        "1,234 parameters",
        "conv1",
        "analog",
        "binary",
        "50.00 %",
        "warning: max pooling on spikes",
    ):
        assert fact in done.out
    assert "flatten_7" not in done.out
    assert pipeline.calls[0][1][0] == "test_resnet"
    assert pipeline.calls[0][1][1]["settings"].classes == 7


def test_inspect_json_is_the_inspection(run, pipeline, inspection):
    done = run("inspect", "test_resnet", "--json")
    assert json.loads(done.out) == inspection.model_dump(mode="json")


@pytest.mark.parametrize(("strict", "code"), [("50", 0), ("80", 4)])
def test_strict_names_both_figures(run, pipeline, strict, code):
    done = run("inspect", "test_resnet", "--strict", strict)
    assert done.code == code
    assert "stages" in done.out
    if code:
        assert "spikes drive 50.00 %" in done.err
        assert "--strict 80 %" in done.err


@pytest.mark.parametrize(
    ("reported", "verdict"),
    [
        ({"1": 90.0, "2": 98.0}, "equal to the report, to the digit"),
        ({"2": 98.5}, "differs from the report by up to 0.5 points"),
    ],
)
def test_eval_compares_what_is_reported_with_what_is_measured(run, pipeline, report, reported, verdict):
    pipeline.evaluate = lambda path, **arguments: (
        pipeline.calls.append((path, arguments)) or SimpleNamespace(report=report, reported=reported)
    )
    done = run("eval", "any.safetensors", "--timesteps", "2")
    assert done.code == 0, done.err
    assert "teacher 99.50 %, student 98.00 %" in done.out
    assert verdict in done.out
    path, arguments = pipeline.calls[0]
    assert (path, arguments["timesteps"], arguments["batch_size"]) == (Path("any.safetensors"), 2, None)


def test_eval_on_another_data_set_compares_nothing(run, pipeline):
    done = run("eval", "any.safetensors", "--dataset", "cifar10")
    assert done.code == 0
    assert "the report" not in done.out


def test_eval_json_is_the_report(run, pipeline, report):
    assert json.loads(run("eval", "any.safetensors", "--json").out) == report.model_dump(mode="json")


def test_env_names_versions_and_devices(run):
    found = json.loads(run("env", "--json").out)
    assert {"snn-distill", "python", "torch", "timm", "cuda", "devices", "threads"} <= set(found)
    assert "torch" in run("env").out
