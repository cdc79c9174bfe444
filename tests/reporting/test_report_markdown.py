"""report.md: the facts of the report, in tables that Markdown can read."""

import pytest
from reports import BARE, FULL

from ann2snn_distill.reporting.markdown import to_markdown
from ann2snn_distill.reporting.report import Report


def text_of(content):
    return to_markdown(Report.model_validate(content))


@pytest.mark.parametrize(
    "fact",
    [
        "| teacher (ANN) | resnet18 | 95.50 % | trained on cifar10 |",
        "| student (SNN) | resnet34 | 94.25 % | T = 2 |",
        "1.25 points",
        "seed 20251123",
        "| 1 | 80.00 % |",
        "| layer1 | 93.00 % | 0.8765 |",
        "90.00 % of the multiply-accumulates: 900 of 1,000",
        "| 2 | 0.5 |",
        "takes 0.25 times the ANN's energy",
        "multiply-accumulate 4.6 pJ, accumulate 0.9 pJ",
        "| images a second | 12,346 |",
        "- max pooling on spikes is kept",
        "| `a\\|b` | synapse | 0.1250 | binary | 7,654,321 | 9 |",
        "| torch | 2.9.0 |",
    ],
)
def test_the_report_states(fact):
    assert fact in text_of(FULL)


def test_it_says_when_the_snn_loses():
    assert "SNN loses" not in text_of(FULL)
    worse = {**FULL, "energy": {**FULL["energy"], "snn_mj": 3.0}}
    assert "**The SNN loses**: it takes 1.5 times the ANN's energy." in text_of(worse)


def test_what_was_not_measured_is_said():
    text = text_of(BARE)
    assert text.count("Not measured.") == 4
    assert "| teacher (ANN) | resnet18 | - |  |" in text
    assert "| epochs | - |" in text


def test_a_student_without_branches_is_told_from_one_that_was_not_measured():
    assert "trained without branches" in text_of({**BARE, "branches": []})


def test_every_row_of_a_table_has_the_columns_of_its_head():
    columns = None
    for line in text_of(FULL).splitlines():
        bars = line.replace("\\|", "").count("|")
        columns = (columns or bars) if bars else None
        assert not bars or bars == columns, line
