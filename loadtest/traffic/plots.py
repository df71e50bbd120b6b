"""Plots over time as SVG, without a library. The report's page contains them and needs no script."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

import msgspec

from loadtest.traffic.timeline import AnswerGap

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 14, 26
"""Size of a plot and its margins, in SVG units."""

COLOURS = {
    "HTTP": "#0072b2",
    "WebSocket": "#e69f00",
    "native": "#009e73",
    "p50": "#0072b2",
    "p99": "#d55e00",
    "slowest": "#888888",
}
"""Colours of the palette of Okabe and Ito, which colour-blind people can distinguish."""


class Mark(msgspec.Struct, frozen=True):
    """An event of the test at a time in seconds since the epoch."""

    at_s: float
    text: str


class PlotTimes(msgspec.Struct, frozen=True):
    """The times that all plots of one test share. `start_s`: its begin in seconds since the epoch. `width_s`: seconds
    between two points of a curve. `gaps`: times without an answer that are shown.
    """

    start_s: float
    width_s: float
    marks: Sequence[Mark]
    gaps: Sequence[AnswerGap]


Curve = tuple[str, list[float]]
"""Name and values."""


def plot(span: PlotTimes, curves: Sequence[Curve], *, logarithmic: bool) -> str:
    """Return a plot of curves over time as SVG, with the marks and the gaps. On a logarithmic scale a curve has no line
    where its value is 0, which means that nothing was answered.
    """
    seconds = span.width_s * len(curves[0][1])
    values = [value for _, points in curves for value in points if value > 0] or [1.0]
    ticks = _powers(min(values), max(values)) if logarithmic else _steps(max(values))
    axes = _Axes(seconds, ticks, logarithmic)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *axes.grid()]
    for gap in span.gaps:
        left, right = axes.x(gap.begin_s - span.start_s), axes.x(gap.begin_s - span.start_s + gap.seconds)
        size = f'width="{max(1.5, right - left):.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect class="gap" x="{left:.1f}" y="{TOP}" {size}/>')
    for name, points in curves:
        colour = COLOURS.get(name, "#555")
        parts += [
            f'<polyline fill="none" stroke-width="1.6" stroke="{colour}" points="{line}"/>'
            for line in axes.lines(points, span.width_s)
        ]
    for mark in span.marks:
        at = axes.x(mark.at_s - span.start_s)
        side, anchor = (4, "start") if at < WIDTH * 0.75 else (-4, "end")
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at + side:.1f}" y="{TOP + 11}" text-anchor="{anchor}">{html.escape(mark.text)}</text>')
    return "".join([*parts, "</svg>"])


class _Axes:
    """The places of times and values in a plot."""

    def __init__(self, seconds: float, ticks: Sequence[float], logarithmic: bool) -> None:
        self._seconds = seconds
        self._ticks = ticks
        self._logarithmic = logarithmic
        self._low, self._high = self._place(ticks[0]), self._place(ticks[-1])

    def _place(self, value: float) -> float:
        """Return a value on the axis: its logarithm, if the axis is logarithmic."""
        return math.log10(value) if self._logarithmic else value

    def x(self, at_s: float) -> float:
        """Return the horizontal place of a time after the start; times outside the plot are at its edges."""
        return LEFT + min(1.0, max(0.0, at_s / self._seconds)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        part = (self._place(value) - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> Iterator[str]:
        """Yield the lines and labels of the ticks."""
        for tick in self._ticks:
            y = self.y(tick)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        for tick in _steps(self._seconds):
            if tick < self._seconds:
                yield f'<text x="{self.x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{tick:g} s</text>'

    def lines(self, points: Sequence[float], width_s: float) -> Iterator[str]:
        """Yield the points of each unbroken line of a curve."""
        line: list[str] = []
        for number, value in enumerate(points):
            if value > 0 or not self._logarithmic:
                line.append(f"{self.x((number + 0.5) * width_s):.1f},{self.y(value):.1f}")
            elif line:
                yield " ".join(line)
                line = []
        if line:
            yield " ".join(line)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 or not value else f"{value:g}"


def _steps(most: float) -> list[float]:
    """Return about five round numbers from 0 to at least `most`."""
    rough = most / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * part for part in (1, 2, 5, 10) if size * part >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _powers(least: float, most: float) -> list[float]:
    """Return powers of ten that contain both numbers."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]
