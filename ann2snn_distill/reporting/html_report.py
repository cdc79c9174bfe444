"""report.html: a run as one self-contained page, its plots beside the report's own text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ann2snn_distill.reporting.html_curves import Curve, curves
from ann2snn_distill.reporting.html_page import page
from ann2snn_distill.reporting.report import Report

Lines = Sequence[Mapping[str, Any]]
"""The lines of metrics.jsonl."""


def to_html_report(report: Report, lines: Lines) -> str:
    """Return the page of a finished run."""
    student, teacher = report.student, report.teacher
    told = (
        f"teacher {_percent(teacher.top1)} ({teacher.source}), student {_percent(student.top1)} at "
        f"T = {report.timesteps}: {abs(report.drop):.2f} points {'below' if report.drop >= 0 else 'above'}"
        if report.drop is not None
        else "not measured"
    )
    parts = [
        f"<p>{escape(told)}</p>",
        '<p><a href="report.md">every number</a>, <a href="metrics.jsonl">epochs</a></p>',
    ]
    for title, text, plot in _plots(report, lines):
        parts += [f"<h2>{escape(title)}</h2>", f"<p>{escape(text)}</p>", plot]
    if report.warnings:
        parts += ["<h2>Warnings</h2>", "<ul>", *(f"<li>{escape(warning)}</li>" for warning in report.warnings), "</ul>"]
    return page(f"{student.model} as a spiking network on {report.dataset}", parts)


def _plots(report: Report, lines: Lines) -> Iterable[tuple[str, str, str]]:
    by_time = {"student": [(float(t), value) for t, value in report.student.top1_at.items() if value is not None]}
    if any(by_time.values()):
        text = "Top-1, percent of the test split, of the mean output over the first t timesteps."
        yield "Accuracy by timestep", text, curves(by_time, of="accuracy by timestep", across="t")
    cosines = _nested(lines, "cosine")
    if cosines:
        text = "Cosine of each cut's projected rate and the teacher's feature, on training images without augmentation."
        yield "Alignment", text, curves(cosines, of="cosine of every cut over the epochs", across="epoch")
    accuracies = {"student": _of(lines, "val_top1")} | _nested(lines, "val_branches")
    if accuracies["student"]:
        text = "Top-1, percent of the images held out of training."
        yield "Validation", text, curves(accuracies, of="validation accuracy over the epochs", across="epoch")
    losses = {name: _of(lines, name) for name in _losses(lines)}
    if losses:
        text = "Means over each epoch; a branch's part holds its share of labels and of guidance."
        yield "Losses", text, curves(losses, of="every loss part over the epochs", across="epoch")


def _losses(lines: Lines) -> list[str]:
    names = dict.fromkeys(name for line in lines for name in line)
    return [name for name in names if name == "loss" or name.startswith(("student_", "branch_"))]


def _of(lines: Lines, name: str) -> Curve:
    points = ((float(line["epoch"]), line.get(name)) for line in lines)
    return [(epoch, float(value)) for epoch, value in points if value is not None and math.isfinite(value)]


def _nested(lines: Lines, key: str) -> dict[str, Curve]:
    names = dict.fromkeys(name for line in lines for name in line.get(key) or {})
    return {name: _of([{"epoch": line["epoch"], **(line.get(key) or {})} for line in lines], name) for name in names}


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} %"
