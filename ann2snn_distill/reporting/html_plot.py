"""A dot plot in SVG: one row a setting, one dot a seed, a ring for the teacher."""

import math
from collections.abc import Sequence
from html import escape

from ann2snn_distill.reporting.batch_summary import RunSummary

_ROW, _TOP, _BOTTOM = 26, 8, 40
"""Heights, pixels: of a row, above the first, of the axis below the last."""

_WIDTH, _RIGHT, _CHARACTER = 960, 24, 7.2
_LONGEST = 44
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def dot_plot(runs: Sequence[RunSummary]) -> str:
    """Return the accuracy of finished runs, and of their teachers, as an SVG element.

    Args:
        runs: each with `top1`; those that differ in their seed alone share a row.
    """
    rows: dict[str, list[RunSummary]] = {}
    for run in runs:
        rows.setdefault(_label(run), []).append(run)
    left = 16 + _CHARACTER * min(max(map(len, rows)), _LONGEST)
    axis = _Axis([value for run in runs for value in (run.top1, run.teacher_top1) if value is not None], left)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    parts = [*axis.lines(bottom=height - _BOTTOM)]
    for index, (label, members) in enumerate(rows.items()):
        parts += _row(label, members, axis, middle=_TOP + _ROW * index + _ROW / 2)
    parts.append(_legend(left, height - 6))
    described = "accuracy of each student and its teacher"
    return (
        f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{described}">\n' + "\n".join(parts) + "\n</svg></div>"
    )


class _Axis:
    """From percent to pixels, with round ticks."""

    def __init__(self, values: Sequence[float], left: float):
        low, high = min(values), max(values)
        self._step = next((step for step in _STEPS if (high - low) / step <= 7), _STEPS[-1])
        self._low = math.floor(low / self._step - 0.25) * self._step
        self._high = math.ceil(high / self._step + 0.25) * self._step
        self.left, self._right = left, float(_WIDTH - _RIGHT)

    def x(self, value: float) -> float:
        """Return the place of a value, pixels."""
        return self.left + (value - self._low) / (self._high - self._low) * (self._right - self.left)

    def lines(self, *, bottom: float) -> list[str]:
        """Return the ticks."""
        count = round((self._high - self._low) / self._step)
        values = [self._low + index * self._step for index in range(count + 1)]
        return [
            f'<line x1="{self.x(v):.1f}" x2="{self.x(v):.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="soft" x="{self.x(v):.1f}" y="{bottom + 16}" text-anchor="middle">{v:g}</text>'
            for v in (round(value, 6) for value in values)
            if 0 <= v <= 100
        ]


def _label(run: RunSummary) -> str:
    rest = {key: value for key, value in run.varied.items() if key != "seed" and value is not None}
    return ", ".join(f"{_KEYS.get(key, key + ' ')}{value}" for key, value in rest.items()) or run.student


_KEYS = {"model": "", "student": "", "dataset": "", "timesteps": "T=", "method": ""}
"""How a setting is named in front of its value; the others by their key."""


def _row(label: str, runs: Sequence[RunSummary], axis: _Axis, *, middle: float) -> list[str]:
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    parts = [f'<text x="{axis.left - 12:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(short)}</text>']
    rings = [(run.name, run.teacher_top1) for run in runs if run.teacher_top1 is not None]
    dots = [(run.name, run.top1) for run in runs if run.top1 is not None]
    parts += [_mark("teacher", axis.x(value), middle, f"{name}: teacher", value) for name, value in rings]
    parts += [_mark("student", axis.x(value), middle, name, value) for name, value in dots]
    return parts


def _mark(kind: str, x: float, y: float, name: str, value: float) -> str:
    title = f"<title>{escape(name)} {value:.2f} %</title>"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'


def _legend(left: float, y: float) -> str:
    return (
        f'<circle class="student" cx="{left + 5:.1f}" cy="{y - 4}" r="5"/>'
        f'<text class="soft" x="{left + 16:.1f}" y="{y}">student, one dot a run</text>'
        f'<circle class="teacher" cx="{left + 205:.1f}" cy="{y - 4}" r="5"/>'
        f'<text class="soft" x="{left + 216:.1f}" y="{y}">teacher; percent of the test split</text>'
    )
