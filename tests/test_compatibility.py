"""Files of every format version are read for good, and give the logits that they gave when they were written."""

import json
from pathlib import Path

import pytest
import torch

from ann2snn_distill.checkpoint import load_checkpoint
from ann2snn_distill.pipeline.students import student_from_header

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["student-v1", "student-v1-if"])
def test_a_file_of_format_1_gives_its_recorded_logits(name):
    header, tensors = load_checkpoint(FIXTURES / f"{name}.safetensors")
    assert header.format_version == 1
    student = student_from_header(header, tensors).double()  # in float32, spikes flip from machine to machine
    told = json.loads((FIXTURES / f"{name}.json").read_text())
    x = (torch.arange(2 * 3 * 16 * 16, dtype=torch.float64).reshape(2, 3, 16, 16) * 0.7).sin() * 2
    with torch.no_grad():
        logits_TBK = student(x, told["timesteps"])
    torch.testing.assert_close(logits_TBK, torch.tensor(told["logits_TBK"], dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_recorded_logits_depend_on_neurons_and_time():
    lif, same = (
        torch.tensor(json.loads((FIXTURES / f"{name}.json").read_text())["logits_TBK"])
        for name in ("student-v1", "student-v1-if")
    )
    assert not torch.equal(lif, same)
    assert not torch.equal(lif[0], lif[-1])
