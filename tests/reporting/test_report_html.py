"""report.html: one page that needs no other file, whose curves pass through the run's numbers."""

import re
from xml.etree import ElementTree

import pytest
from reports import FULL

from ann2snn_distill.reporting.html_curves import curves
from ann2snn_distill.reporting.html_report import to_html_report
from ann2snn_distill.reporting.report import Report

LINES = [
    {
        "epoch": epoch,
        "phase": "hybrid",
        "loss": 3.0 / epoch,
        "student_ce": 2.0 / epoch,
        "branch_layer1": 1.0 / epoch,
        "lr": 0.1,
        "cosine": {"layer1": 0.5 + 0.1 * epoch, "layer2": 0.2 * epoch},
        **({"val_top1": 50.0 + epoch, "val_branches": {"layer1": 40.0 + epoch}} if epoch % 2 == 0 else {}),
    }
    for epoch in (1, 2, 3, 4)
]


def drawn(text):
    """Return the SVG element, and the places of every curve's points by its name."""
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.DOTALL)[0])
    found = {}
    for line in svg.iter("polyline"):
        name = line.find("title").text.rsplit(":", 1)[0]
        found[name] = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    return svg, found


def test_points_lie_where_their_values_say():
    svg, found = drawn(curves({"a": [(0, 0.0), (5, 5.0), (10, 10.0)], "b": [(0, 10.0)]}, of="values", across="epoch"))
    (x0, y0), (x1, y1), (x2, y2) = found["a"]
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert x0 < x2
    assert y0 > y2  # downwards, as SVG counts
    assert found["b"] == [(x0, y2)]
    labels = {text.text for text in svg.iter("text")}
    assert {"0", "2", "4", "6", "8", "10", "epoch", "a", "b"} <= labels


@pytest.mark.parametrize(
    "points",
    [[(1, 7.0)], [(1, 7.0), (2, 7.0)], [(1, 0.0), (2, 0.0)], [(1, -1e-9), (300, 1e9)], [(1, 0.999), (2, 0.9991)]],
)
def test_any_finite_points_have_a_place_inside(points):
    svg, found = drawn(curves({"a": points}, of="values", across="epoch"))
    width, height = (float(svg.get(name)) for name in ("width", "height"))
    assert len(found["a"]) == len(points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in found["a"])


def test_a_long_legend_goes_on_in_further_lines_within_the_plot():
    names = [f"a_branch_with_a_long_name_{number}" for number in range(12)]
    svg, found = drawn(curves({name: [(1, 1.0), (2, 2.0)] for name in names}, of="values", across="epoch"))
    assert list(found) == names
    places = {text.text: (float(text.get("x")), float(text.get("y"))) for text in svg.iter("text")}
    assert len({places[name] for name in names}) == 12
    assert all(x + 7.2 * len(name) <= 960 for name, (x, _) in places.items() if name in names)
    assert max(y for _, y in places.values()) <= float(svg.get("height"))


def page_of(report, lines=LINES):
    return to_html_report(Report.model_validate(report), lines)


def test_the_page_plots_what_was_measured_and_loads_nothing():
    text = page_of(FULL)
    for title in ("Accuracy by timestep", "Alignment", "Validation", "Losses"):
        assert f"<h2>{title}</h2>" in text
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(""", text)
    alignment = text.split("<h2>Alignment</h2>")[1].split("<h2>")[0]
    _, found = drawn(alignment)
    assert list(found) == ["layer1", "layer2"]
    assert len(found["layer1"]) == 4
    validation = text.split("<h2>Validation</h2>")[1].split("<h2>")[0]
    assert {name: len(points) for name, points in drawn(validation)[1].items()} == {"student": 2, "layer1": 2}


def test_without_validation_or_branches_their_plots_are_left_out():
    bare = [{"epoch": 1, "phase": "rate", "loss": 1.0, "student_ce": 1.0}]
    text = page_of(FULL, bare)
    assert "<h2>Losses</h2>" in text
    assert "<h2>Alignment</h2>" not in text
    assert "<h2>Validation</h2>" not in text


def test_losses_that_are_not_finite_are_left_out():
    text = page_of(FULL, [*LINES, {"epoch": 5, "phase": "hybrid", "loss": float("nan")}])
    assert "nan" not in text


def test_names_from_outside_are_text_and_never_markup():
    text = page_of(FULL | {"dataset": "<script>alert(1)</script>", "warnings": ["<b>bold</b>"]})
    assert "<script>" not in text
    assert "<b>" not in text
