"""Line charts as inline SVG: crisp at any size, coloured by the page's style sheet, values shown on hovering.

A chart is a pure function of its series, so that a report needs no script and no plotting library. Letters: N points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

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
    low, high = y_limits or (0.0, max(float(s.y.max()) for s in shown) * 1.05 or 1.0)
    axes = _Axes(0.0, max(float(s.x.max()) for s in shown), low, high)
    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    parts.extend(_scales(axes, x_label))
    for s in shown:
        points = [axes.place(x, y) for x, y in zip(s.x.tolist(), s.y.tolist(), strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(Markup('<g class="{}"><path d="{}"><title>{}</title></path>').format(s.style, path, s.name))
        if s.style != "faint":
            parts.extend(_hovers(s, points, x_label))
        parts.append(Markup("</g>"))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


@dataclass(frozen=True)
class _Axes:
    """The ranges of x and y that fill the canvas."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies on the canvas; y beyond the range lies on its edge."""
        across = (x - self.left) / (self.right - self.left or 1.0)
        up = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _scales(axes: _Axes, x_label: str) -> list[Markup]:
    """Rules across with their numbers, the numbers below, and what they count."""
    rule = Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []
    for value in ticks(axes.low, axes.high):
        _, y = axes.place(axes.left, value)
        parts.append(rule.format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(text.format(LEFT - 8, y + 4, "end", number(value)))
    for value in ticks(axes.left, axes.right):
        x, _ = axes.place(value, axes.low)
        parts.append(text.format(x, HEIGHT - BOTTOM + 18, "middle", number(value)))
    parts.append(text.format(WIDTH - RIGHT, HEIGHT - 4, "end", x_label))
    return parts


def _hovers(series: Series, points: Sequence[tuple[float, float]], x_label: str) -> list[Markup]:
    """Invisible dots along the line that say their values; a line of few points shows them."""
    every = math.ceil(len(points) / HOVERS)
    few = len(points) <= HOVERS // 2 and series.style != "quiet"
    dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}\n{} {}: {}</title></circle>')
    rows = zip(series.x.tolist(), series.y.tolist(), points, strict=True)
    return [
        dot.format("dot seen" if few else "dot", *at, 3 if few else 7, series.name, x_label, number(x), number(y))
        for index, (x, y, at) in enumerate(rows)
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
    """A number as short as it can be said: 12,000 · 0.85 · 2.5e-5."""
    if value and abs(value) < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each of values (N,) and those up to `window` / 2 beside it: (N,), without a shift at the ends."""
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
