"""One value in a table for people."""

import pytest

from ann2snn_distill.cli.output import cell


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
