"""Curves over epochs or timesteps in SVG, with round ticks and a legend."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 12, 44
"""Room around the curves, pixels."""
_LEGEND, _CHARACTER = 24, 7.2
"""Height of a line of the legend, and width of a character, pixels."""
_COLOURS = 8

Curve = Sequence[tuple[float, float]]
"""Points (x, y) in the order of x."""


def curves(series: Mapping[str, Curve], *, of: str, across: str) -> str:
    """Return named curves as an SVG element.

    Args:
        series: at least one curve with a point.
        of: what they show, for who cannot see them.
        across: what x is.
    """
    shown = {name: points for name, points in series.items() if points}
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    horizontal = _Scale(xs, _LEFT, _WIDTH - _RIGHT, snug=True)
    vertical = _Scale(ys, _HEIGHT - _BOTTOM, _TOP)
    legend = _legend(list(shown))
    height = _HEIGHT + _LEGEND * (1 + max(line for line, _, _ in legend))
    parts = [*_grid(horizontal, vertical, across)]
    for index, (name, points) in enumerate(shown.items()):
        parts += _curve(name, points, horizontal, vertical, colour=index % _COLOURS)
    for index, (line, left, name) in enumerate(legend):
        y = _HEIGHT + _LEGEND * line
        parts.append(
            f'<line class="curve s{index % _COLOURS}" x1="{left:.0f}" x2="{left + 18:.0f}" y1="{y}" y2="{y}"/>'
            f'<text class="soft" x="{left + 24:.0f}" y="{y + 4}">{escape(name)}</text>'
        )
    return (
        f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(of)}">\n' + "\n".join(parts) + "\n</svg></div>"
    )


class _Scale:
    """From values to pixels, with round ticks; `snug` ends at the values and not at ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, snug: bool = False):
        low, high = min(values), max(values)
        spread = (high - low) or abs(high) or 1.0
        self._step = _round_step(spread / 6, whole=snug)
        self._low = low if snug else math.floor(low / self._step) * self._step
        self._high = high if snug else math.ceil(high / self._step) * self._step
        if self._low == self._high:
            self._low, self._high = self._low - self._step, self._high + self._step
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Return the place of a value, pixels."""
        return self.start + (value - self._low) / (self._high - self._low) * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """Yield the round values on the scale."""
        first, last = math.ceil(self._low / self._step - 1e-9), math.floor(self._high / self._step + 1e-9)
        for count in range(first, last + 1):
            yield round(count * self._step, 10)


def _round_step(least: float, *, whole: bool) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `least`; of whole numbers if wanted."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return max(step, 1.0) if whole else step


def _grid(horizontal: _Scale, vertical: _Scale, across: str) -> Iterator[str]:
    for value in vertical.ticks():
        y = vertical(value)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    for value in horizontal.ticks():
        place = f'x="{horizontal(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle"'
        yield f'<text class="soft" {place}>{value:g}</text>'
    place = f'x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - _BOTTOM + 36}" text-anchor="middle"'
    yield f'<text class="soft" {place}>{escape(across)}</text>'


def _curve(name: str, points: Curve, horizontal: _Scale, vertical: _Scale, *, colour: int) -> Iterator[str]:
    places = [(horizontal(x), vertical(y)) for x, y in points]
    title = f"<title>{escape(name)}: {points[0][1]:.4g} to {points[-1][1]:.4g}</title>"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline class="curve s{colour}" points="{path}">{title}</polyline>'
    if len(points) <= 20:  # more would hide the curve
        for (x, y), (_, value) in zip(places, points, strict=True):
            title = f"<title>{escape(name)}: {value:.4g}</title>"
            yield f'<circle class="curve s{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'


def _legend(names: Sequence[str]) -> list[tuple[int, float, str]]:
    """Return line, left edge and text of every name, in lines as wide as the plot."""
    found, line, left = [], 0, float(_LEFT)
    for name in names:
        width = 48 + _CHARACTER * len(name)
        if left + width > _WIDTH and left > _LEFT:
            line, left = line + 1, float(_LEFT)
        found.append((line, left, name))
        left += width
    return found
