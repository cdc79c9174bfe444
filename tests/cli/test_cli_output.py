"""One value in a table for people."""

import io
import re

import pytest
from rich.console import Console

from ann2snn_distill.cli.output import cell, outline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (12345, "12,345"),
        (98.4259, "98.43"),
        (-0.5, "-0.50"),
        (0.0021, "2.10e-03"),
        (0.0, "0.00"),
        (4.7e-15, "0.00"),  # the mean of drops that cancel
        ("lif", "lif"),
    ],
)
def test_a_cell_says_as_much_as_people_read(value, text):
    assert cell(value) == text


def test_words_share_a_line_and_sentences_have_their_own():
    text = io.StringIO()
    for part in outline("plan", {"branches": ["layer1", "layer2"], "warnings": ["one of them", "another one"]}):
        Console(width=60, file=text).print(part)
    lines = [re.split("  +", line.strip()) for line in text.getvalue().splitlines() if line.strip()]
    assert lines == [["plan"], ["branches", "layer1, layer2"], ["warnings", "one of them"], ["another one"]]
