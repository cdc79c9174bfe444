import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import ann2snn_distill
from ann2snn_distill.cli.app import run as run_command
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.events import Observer, OutputChosen
from ann2snn_distill.reporting.inspection import Inspection
from ann2snn_distill.reporting.report import Report

PLAN = {
    "settings": {"model": "test_resnet", "lr": 1 / 3},
    "stages": [{"name": "stem"}],
    "coverage": {"spiking_macs": 9968, "total_macs": 10000, "share": 0.9968},
    "steps": 9,
}


@pytest.fixture
def report() -> Report:
    return Report.model_validate(
        {
            "model": "test_resnet",
            "student": {"model": "test_resnet", "top1": 98.0, "top1_at": {"1": 90.0, "2": 98.0}},
            "dataset": "digits",
            "timesteps": 2,
            "method": "hybrid",
            "neuron": "lif",
            "seed": 0,
            "versions": {"torch": "2.9.0"},
            "device": "cpu",
            "teacher": {"top1": 99.5, "source": "trained on digits"},
            "drop": 1.5,
            "branches": [{"name": "stage1", "top1": 97.0, "cosine": 0.9}],
            "coverage": {"spiking_macs": 75, "total_macs": 100, "share": 0.75},
        }
    )


@pytest.fixture
def inspection() -> Inspection:
    layer = {"path": "conv", "kind": "Conv2d", "role": "synapse", "stage": "stem", "macs": 60}
    return Inspection.model_validate(
        {
            "model": "test_resnet",
            "img_size": 32,
            "classes": 10,
            "parameters": 1234,
            "stages": [
                {
                    "name": "stem",
                    "path": "act1",
                    "channels": 8,
                    "reduction": 2,
                    "parameters": 1234,
                    "neurons": 1,
                    "branch": True,
                }
            ],
            "layers": [
                {"name": "conv1", "binary_input": False, **layer},
                {"name": "conv2", "binary_input": True, **layer},
                {
                    "name": "flatten_7",
                    "path": "flatten_7",
                    "kind": "flatten",
                    "role": "shape",
                    "stage": "head",
                },
            ],
            "coverage": {"spiking_macs": 60, "total_macs": 120, "share": 0.5},
            "warnings": ["max pooling on spikes is kept"],
        }
    )


@pytest.fixture
def pipeline(
    monkeypatch: pytest.MonkeyPatch, report: Report, inspection: Inspection, tmp_path: Path
) -> SimpleNamespace:
    """Stand in for the real pipeline; `calls` keeps what the commands passed on."""
    calls: list[tuple[str, object]] = []

    def answer(name: str, result: object) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            calls.append((name, (*args, kwargs)))
            return result

        return call

    def convert(settings: ConvertSettings, observe: Observer) -> object:
        observe(OutputChosen(settings.output or tmp_path / "run"))
        return answer("convert", report)(settings, observe)

    fake = SimpleNamespace(
        calls=calls,
        convert=convert,
        evaluate=answer("evaluate", SimpleNamespace(report=report, reported={})),
        inspect=answer("inspect", inspection),
        teach=answer("teach", {"model": "test_resnet", "top1": 99.5, "path": tmp_path}),
        plan=answer("plan", PLAN),
    )
    monkeypatch.setitem(sys.modules, "ann2snn_distill.pipeline", fake)
    monkeypatch.setattr(ann2snn_distill, "pipeline", fake, raising=False)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run the command line; give its exit code, stdout and stderr."""

    def command(*arguments: str) -> SimpleNamespace:
        code = run_command(arguments)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return command
