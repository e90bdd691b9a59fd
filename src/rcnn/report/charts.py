"""Line charts as inline SVG: crisp at any size, coloured by the page's style sheet, values shown on hovering.

A chart is a pure function of its series, so that a report needs no script and no plotting library. Letters: N points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
# More points than this cannot be told apart on a chart of this width.
POINTS = 240
HOVERS = 40


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, points x [N] and y [N], and style (a class of the style sheet)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str = "accent"


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str, y_limits: tuple[float, float] | None = None
) -> Markup:
    """An SVG of lines over common axes, as markup for the page; empty where no series has a point.

    Args:
        series: drawn in this order, the last on top.
        title: what the chart shows, for those who cannot see it.
        x_label: what x counts, from 0 on.
        y_limits: from and to; found from the lines where None, and lines are cut at it.
    """
    shown = [_thinned(s) for s in series if len(s.x)]
    if not shown:
        return Markup("")
    left, right = 0.0, max(float(s.x.max()) for s in shown)
    low, high = y_limits or (0.0, max(float(s.y.max()) for s in shown) * 1.05 or 1.0)
    x_ticks, y_ticks = ticks(left, right), ticks(low, high)

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left or 1.0) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (min(max(y, low), high) - low) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for y in y_ticks:
        parts.append(Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            LEFT, WIDTH - RIGHT, down(y), down(y)
        ))  # fmt: skip
        parts.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 8, down(y) + 4, number(y)
        ))  # fmt: skip
    for x in x_ticks:
        parts.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            across(x), HEIGHT - BOTTOM + 18, number(x)
        ))  # fmt: skip
    parts.append(Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(
        WIDTH - RIGHT, HEIGHT - 4, x_label
    ))  # fmt: skip
    for s in shown:
        points = [(across(x), down(y)) for x, y in zip(s.x.tolist(), s.y.tolist(), strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(Markup('<g class="{}"><path d="{}"><title>{}</title></path>').format(s.style, path, s.name))
        if s.style != "faint":
            parts.extend(_hovers(s, points, x_label))
        parts.append(Markup("</g>"))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _hovers(series: Series, points: Sequence[tuple[float, float]], x_label: str) -> list[Markup]:
    """Invisible dots along the line that say their values; a line of few points shows them."""
    every = math.ceil(len(points) / HOVERS)
    few = " seen" if len(points) <= HOVERS // 2 and series.style != "quiet" else ""
    dot = Markup('<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}\n{} {}: {}</title></circle>')
    rows = zip(series.x.tolist(), series.y.tolist(), points, strict=True)
    return [
        dot.format(few, px, py, 3 if few else 7, series.name, escape(x_label), number(x), number(y))
        for index, (x, y, (px, py)) in enumerate(rows)
        if index % every == 0 or index == len(points) - 1
    ]


def ticks(low: float, high: float, *, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers from `low` to `high`, both included where they are round."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as short as it can be said: 12,000 · 0.85 · 2.5e-4."""
    if value and abs(value) < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value of [N] and those up to `window` / 2 beside it: [N], without a shift at the ends."""
    if window < 2 or len(values) < 3:
        return values
    total = np.concatenate(([0.0], np.cumsum(values)))
    centre = np.arange(len(values))
    first, last = np.maximum(centre - window // 2, 0), np.minimum(centre + window // 2 + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _thinned(series: Series) -> Series:
    """At most `POINTS` points, evenly picked, the first and last among them."""
    if len(series.x) <= POINTS:
        return series
    keep = np.unique(np.linspace(0, len(series.x) - 1, POINTS).round().astype(int))
    return Series(series.name, series.x[keep], series.y[keep], series.style)
