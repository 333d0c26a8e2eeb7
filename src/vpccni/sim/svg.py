# SPDX-License-Identifier: Apache-2.0
"""Line and area plots as inline SVG, in colours that the page's style sheet decides.

Knows axes, ticks and paths. Must never know what is plotted. `sim.report` puts the plots into a page; everything is
text in the page itself, so that it needs no network and no library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 34
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: its name, a value per point (None: a gap), its colour's number, dashed or not."""

    name: str
    values: Values
    colour: int
    dashed: bool = False


def lines(times_s: Sequence[float], curves: Sequence[Curve], unit: str) -> str:
    """Curves over time."""
    plot = _Plot(times_s, max((value for each in curves for value in each.values if value is not None), default=0.0))
    paths = []
    for curve in curves:
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        path = plot.path(curve.values)
        title = f"<title>{escape(curve.name)}</title>"
        paths.append(f'<path class="line c{curve.colour}" d="{path}"{dash}>{title}</path>')
    return plot.framed(paths, unit) + legend(curves)


def stacked(times_s: Sequence[float], curves: Sequence[Curve], unit: str) -> str:
    """Areas on top of each other, the first at the bottom."""
    points = range(min([len(times_s), *(len(each.values) for each in curves)]))
    below = [0.0 for _ in points]
    tops: list[list[float]] = []
    for curve in curves:
        below = [below[point] + (curve.values[point] or 0.0) for point in points]
        tops.append(below)
    plot = _Plot(times_s, max(below, default=0.0))
    areas, floor_line = [], [0.0 for _ in points]
    for curve, top in zip(curves, tops, strict=True):
        title = f"<title>{escape(curve.name)}</title>"
        areas.append(f'<path class="area a{curve.colour}" d="{plot.area(floor_line, top)}">{title}</path>')
        floor_line = top
    return plot.framed(areas, unit) + legend(curves)


def legend(curves: Iterable[Curve]) -> str:
    """Names and colours."""
    entries = []
    for curve in curves:
        dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
        swatch = (
            f'<svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
            f'<path class="line c{curve.colour}" d="M1 4H21"{dash}/></svg>'
        )
        entries.append(f"<li>{swatch}{escape(curve.name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


class _Plot:
    """One pair of axes. Time from the first to the last point, values from 0 to a round number above the top."""

    def __init__(self, times_s: Sequence[float], top: float) -> None:
        self._times = times_s
        self._end = max([1e-9, *times_s[-1:]])
        self._step = _round_step((top or 1.0) / 4)
        self._top = self._step * max(1, -(-(top or 1.0) // self._step))

    def _x(self, at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / self._end

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._top

    def path(self, values: Values) -> str:
        """A line; it breaks at gaps. A lone point is a short dash, or it would not be seen."""
        parts, drawing = [], False
        count = min(len(values), len(self._times))
        for point in range(count):
            value = values[point]
            if value is None:
                drawing = False
                continue
            x, y = self._x(self._times[point]), self._y(value)
            parts.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}")
            alone = not drawing and (point + 1 >= count or values[point + 1] is None)
            if alone:
                parts.append("h2.5")
            drawing = True
        return "".join(parts) or "M0 0"

    def area(self, low: Sequence[float], high: Sequence[float]) -> str:
        """What lies between two lines."""
        there = [f"{self._x(at):.1f} {self._y(value):.1f}" for at, value in zip(self._times, high, strict=False)]
        back = [f"{self._x(at):.1f} {self._y(value):.1f}" for at, value in zip(self._times, low, strict=False)]
        return "M" + "L".join([*there, *reversed(back)]) + "Z" if there else "M0 0"

    def framed(self, paths: Iterable[str], unit: str) -> str:
        """The plot with its grid and labels."""
        grid = []
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            y = self._y(value)
            grid.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            grid.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        step_s, unit_s, name = _time_step(self._end)
        at = 0.0
        while at <= self._end * 1.0001:
            label = f"{at / unit_s:g}{name if at else ''}"
            x = self._x(at)
            grid.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{label}</text>')
            at += step_s
        axis = f'<text class="unit" x="{LEFT}" y="{HEIGHT - 1}">{escape(unit)}</text>'
        body = "".join([*grid, axis, *paths])
        return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{body}</svg>'


def _round_step(step: float) -> float:
    scale = 10.0 ** floor(log10(step))
    return next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= step * 0.999)


def _time_step(end_s: float) -> tuple[float, float, str]:
    """Between labels of the time axis, the unit's length, its name."""
    for step_s in (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400):
        if end_s / step_s <= 10:
            break
    if step_s < 60:
        return step_s, 1, " s"
    if step_s < 3600:
        return step_s, 60, " min"
    return max(step_s, end_s / 10), 3600, " h"


def short(value: float) -> str:
    """`1,200` as 1.2k."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
