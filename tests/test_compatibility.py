"""Files of every format version are read for good, and give what they gave when they were written."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from ann2snn_distill.checkpoint import load_checkpoint
from ann2snn_distill.cli.options import MODEL
from ann2snn_distill.cli.resolve import resolve
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.reporting.report import Report
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import train_state

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(("name", "version"), [("student-v1", 1), ("student-v1-if", 1), ("student-v2", 2)])
def test_a_file_of_each_format_gives_its_recorded_logits(name, version):
    header, tensors = load_checkpoint(FIXTURES / f"{name}.safetensors")
    assert header.format_version == version
    student = student_from_header(header, tensors).double()  # in float32, spikes flip from machine to machine
    told = json.loads((FIXTURES / f"{name}.json").read_text())
    x = (torch.arange(2 * 3 * 16 * 16, dtype=torch.float64).reshape(2, 3, 16, 16) * 0.7).sin() * 2
    with torch.no_grad():
        logits_TBK = student(x, told["timesteps"])
    torch.testing.assert_close(logits_TBK, torch.tensor(told["logits_TBK"], dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_recorded_logits_depend_on_neurons_and_time():
    lif, *others = (
        torch.tensor(json.loads((FIXTURES / f"{name}.json").read_text())["logits_TBK"])
        for name in ("student-v1", "student-v1-if", "student-v2")
    )
    assert not any(torch.equal(lif, other) for other in others)
    assert not torch.equal(lif[0], lif[-1])


def test_a_resume_state_of_format_1_is_that_of_its_training(tmp_path):
    """AdamW, a moving average and float16's gradient scaler, in the middle of the second epoch."""
    shutil.copy(FIXTURES / "resume-v1.safetensors", tmp_path / "state-000001-00000002.safetensors")
    restart, complaints = ResumeFolder(tmp_path, identity={"seed": 0, "amp_dtype": "float16"}).load(
        lambda restart: None
    )
    assert (complaints, restart.place, restart.part.steps) == ([], "step 2 in epoch 2", 2)
    assert [(line["epoch"], line["phase"]) for line in restart.history] == [(1, "net")]
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    state = train_state({"net": network}, opt="adamw", weight_decay=0.1, average_decay=0.8, scaled=True)
    assert {name: tensor.shape for name, tensor in state.tensors().items()} == {
        name: tensor.shape for name, tensor in restart.tensors.items()
    }
    state.restore(restart.tensors)
    assert (state.tensors()["scaler.scale"], state.tensors()["scaler.growth"]) == (65536, 5)
    assert state.tensors()["optimizer.step.net.0.weight"] == 5
    assert network[1].num_batches_tracked == 5


def test_a_report_of_format_1_is_read_with_every_key():
    text = (FIXTURES / "report-v1.json").read_text()
    report = Report.model_validate_json(text)
    assert report.format_version == 1
    assert json.loads(report.model_dump_json()) == json.loads(text)


def test_a_written_configuration_is_taken_with_every_key():
    path = FIXTURES / "config-v1.toml"
    settings = resolve(ConvertSettings, {}, config=path, positional=MODEL, required=("dataset",))
    told = tomllib.loads(path.read_text())
    assert told.items() <= settings.model_dump(mode="json").items()
