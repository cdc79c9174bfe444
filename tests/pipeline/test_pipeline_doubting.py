"""What changes nothing is said, and nothing is said of what does."""

from types import SimpleNamespace

import pytest

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.pipeline.doubting import doubts


def told(**changes):
    settings = ConvertSettings.model_validate({"model": "resnet18", "neuron": "lif", "cutmix": 1.0} | changes)
    return list(doubts(settings, SimpleNamespace(trained=False, source="random")))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": "rate", "alpha": 0.9}, "--method rate has no guidance: --alpha changes nothing"),
        ({"method": "bptt", "beta": "decay", "branches": "none"}, "--beta, --branches change nothing"),
        ({"method": "rate", "projection_lr": 0.1}, "--projection-lr changes nothing"),
        ({"cutmix": 0.0, "mixup_off_epoch": 3}, "no batch is mixed: --mixup-off-epoch changes nothing"),
        ({"coverage": "full"}, "--neuron if has T + 1 levels"),
    ],
)
def test_what_changes_nothing_or_does_not_suit_is_told(changes, text):
    (sentence,) = told(**changes)
    assert text in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alpha": 0.9, "temperature": 2.0, "beta": "decay"},
        {"method": "rate"},
        {"cutmix": 0.0, "mixup": 0.2, "mixup_off_epoch": 3},
        {"coverage": "full", "neuron": "if"},
    ],
)
def test_nothing_is_told_of_what_has_an_effect(changes):
    assert told(**changes) == []
