"""Spoilt files of every kind are read or refused in words; what is watched is in `fuzzing.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ann2snn_distill.checkpoint import SnnHeader, read_header
from ann2snn_distill.errors import BadInputError

FUZZING = Path(__file__).with_name("fuzzing.py")
FIXTURE = Path(__file__).parent.parent / "fixtures" / "student-v1.safetensors"

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=10), inner), max_leaves=8)


def fuzz(tmp_path: Path, *, seed: int, count: int) -> dict:
    command = [sys.executable, FUZZING, str(seed), str(count), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert sum(sum(kind.values()) for kind in found["outcomes"].values()) == count
    return found


def test_hundreds_of_spoilt_files_are_read_or_refused_in_words(tmp_path):
    found = fuzz(tmp_path, seed=1, count=500)
    assert all(found["outcomes"].values()), "every kind was tried"


@pytest.mark.slow
def test_twenty_four_thousand_spoilt_files_are_read_or_refused_in_words(tmp_path):
    found = fuzz(tmp_path, seed=0, count=24_000)
    print(json.dumps(found))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(SnnHeader.model_fields)), value=JSON)
@example(field="thresholds", value={"\n": None})
def test_any_value_in_any_field_is_read_or_refused_in_words(tmp_path, field, value):
    from fuzzing import header_of, with_header

    content = FIXTURE.read_bytes()
    path = tmp_path / "student.safetensors"
    path.write_bytes(with_header(content, json.dumps({**header_of(content), field: value})))
    said = refusal(path)
    assert "\n" not in said
    assert not said or field in said or "is not JSON" in said or "newer snn-distill" in said


def refusal(path: Path) -> str:
    try:
        read_header(path)
    except BadInputError as error:
        return str(error)
    return ""
