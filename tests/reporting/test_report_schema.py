"""report.json: keys frozen, null for what was not measured, the same numbers after a round trip."""

import json

import pytest
from pydantic import ValidationError

from ann2snn_distill.reporting.report import Report, dumps

BARE = {
    "model": "resnet18",
    "student": {"model": "resnet18"},
    "dataset": "cifar10",
    "timesteps": 4,
    "method": None,
    "neuron": "lif",
    "seed": None,
    "versions": {},
    "device": "cpu",
}
LAYER = {"name": "conv1", "role": "synapse"}
BRANCH = {"name": "layer1"}

KEYS = {
    "": "format_version model student dataset timesteps method neuron seed versions device teacher drop "
    "branches coverage layers energy training warnings",
    "teacher": "top1 source",
    "student": "model top1 top1_at",
    "coverage": "spiking_macs total_macs share",
    "energy": "ann_mj snn_mj constants",
    "training": "epochs images_per_second seconds peak_memory_mib",
    "branches": "name top1 cosine",
    "layers": "name role firing_rate binary_input macs synops",
}


@pytest.mark.parametrize("part", KEYS)
def test_every_key_exists_even_where_nothing_was_measured(part):
    content = json.loads(dumps(Report.model_validate({**BARE, "layers": [LAYER], "branches": [BRANCH]})))
    found = content[part] if part else content
    found = found[0] if isinstance(found, list) else found
    assert list(found) == KEYS[part].split()


def test_what_was_not_measured_is_null():
    content = json.loads(dumps(Report.model_validate(BARE)))
    assert content["format_version"] == 1
    assert [content[key] for key in ("drop", "branches", "layers", "method", "seed")] == [None] * 5
    for part in ("teacher", "coverage", "energy", "training"):
        assert set(content[part].values()) == {None}


def test_a_drop_of_just_the_limit_is_within_it():
    drops = [(100 * hits / 10_000, tenth / 10) for hits in range(9400, 9700, 7) for tenth in range(3, 21)]
    assert any(teacher - (teacher - limit) > limit for teacher, limit in drops), "no difference here is rounded up"
    for teacher, limit in drops:
        report = Report.model_validate(BARE | {"drop": teacher - round(teacher - limit, 2)})
        assert report.keeps_drop(limit)
        assert not report.keeps_drop(limit - 0.001)
    assert not Report.model_validate(BARE).keeps_drop(100)


def test_numbers_are_not_rounded_and_survive_the_round_trip():
    report = Report.model_validate({**BARE, "student": {"model": "r", "top1": 100 * 1111 / 1137}})
    text = dumps(report)
    assert text.endswith("}\n")
    assert json.loads(text)["student"]["top1"] == 100 * 1111 / 1137
    assert Report.model_validate_json(text) == report


@pytest.mark.parametrize(
    "change",
    [
        {"drop": float("nan")},
        {"colour": "blue"},
        {"student": {"model": "r", "top1": 101.0}},
        {"coverage": {"share": 50.0}},
    ],
)
def test_a_number_that_cannot_be_or_an_unknown_key_is_refused(change):
    with pytest.raises(ValidationError):
        Report.model_validate({**BARE, **change})
