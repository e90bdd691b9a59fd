"""What digits are written on: textured backgrounds and marks that are not digits, in integer arithmetic only.

A texture is a tone field [H, W] in 0–255 that mixes two colours. Marks are drawn over it with soft edges, as ink is, so
that no detector can tell a digit by its edge alone. Fields are int16, in which 255 · 128 still fits: shares are in
1/128. Letters: H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import isqrt

import numpy as np

from rcnn.data.seeds import Draws

HEIGHT, WIDTH = 240, 320
_Y = np.arange(HEIGHT, dtype=np.int32)[:, None]
_X = np.arange(WIDTH, dtype=np.int32)[None, :]


def sheet(draws: Draws) -> np.ndarray:
    """A background with marks and grain: int16 [3, H, W] in 0–255."""
    first = muted(draws, 30, 225)
    contrast = draws.integer(20, 80)
    second = np.clip(first + [draws.integer(-contrast, contrast) for _ in range(3)], 0, 255).astype(np.int16)
    canvas = blend(np.tile(first[:, None, None], (HEIGHT, WIDTH)), second, draws.pick(TEXTURES)(draws))
    if draws.chance(50):  # uneven light
        canvas = canvas * (128 - (_clouds(draws, 160, 96) * draws.integer(0, 48) >> 8)) >> 7
    for _ in range(draws.integer(0, 6)):
        canvas = blend(canvas, muted(draws, 0, 255), draws.pick(MARKS)(draws) * draws.integer(64, 128) >> 7)
    grain = draws.integer(2, 24)
    noise = draws.bytes(3 if draws.chance(50) else 1, HEIGHT, WIDTH).astype(np.int16)
    return np.clip(canvas + ((noise - 128) * grain >> 8), 0, 255)


def muted(draws: Draws, low: int, high: int) -> np.ndarray:
    """A colour of brightness low … high, more often dull than vivid, as paper and ink are: int16 [3]."""
    grey, vivid = draws.integer(low, high), draws.reciprocal(8, 80)
    return np.clip([grey + draws.integer(-vivid, vivid) for _ in range(3)], 0, 255).astype(np.int16)


def blend(canvas: np.ndarray, colour: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Lays `colour` [3] over canvas [3, h, w] where coverage [h, w] is 0–255: int16 [3, h, w]."""
    share = (coverage + 1).astype(np.int16) >> 1  # 0–128
    return canvas + ((colour[:, None, None] - canvas) * share >> 7)


def _lattice(draws: Draws, cell: int) -> np.ndarray:
    """Random tones every `cell` pixels, smoothly joined (value noise): int16 [H, W] in 0–255."""
    tones = draws.bytes(HEIGHT // cell + 2, WIDTH // cell + 2).astype(np.int16)
    return _joined(_joined(tones, _Y[:, 0], cell).T, _X[0], cell).T


def _joined(values: np.ndarray, position: np.ndarray, cell: int) -> np.ndarray:
    """Rows of values [N, M], `cell` pixels apart, smoothly joined at each position [P] in pixels: int16 [P, M]."""
    index, part = position // cell, position % cell * 128 // cell
    part = (part * part * (384 - 2 * part) >> 14).astype(np.int16)  # smoothstep, 0–128
    return values[index] + (np.diff(values, axis=0)[index] * part[:, None] >> 7)


def _clouds(draws: Draws, *cells: int) -> np.ndarray:
    """Value noise of several cell sizes, each twice as strong as the next: int16 [H, W] in 0–255."""
    total = _lattice(draws, cells[-1])
    for cell in reversed(cells[:-1]):
        total = (total + _lattice(draws, cell)) >> 1
    return total


def _wave(draws: Draws, shortest: int, longest: int) -> np.ndarray:
    """Parallel stripes of any direction and a triangular profile: int16 [H, W] in 0–255."""
    a, b = draws.integer(-8, 8), draws.integer(1, 8)
    period = draws.integer(shortest, longest) * isqrt(a * a + b * b)
    phase = (a * _X + b * _Y + draws.integer(0, period)) % period
    return np.abs(phase * 510 // period - 255).astype(np.int16)


def _cut(tone: np.ndarray, at: int, gain: int) -> np.ndarray:
    """Hardens a tone field [H, W] around `at` by `gain`: int16 [H, W] in 0–255."""
    return np.clip((tone - at) * gain + 128, 0, 255)


def _plain(draws: Draws) -> np.ndarray:
    """A straight change of tone from one side to the other: int16 [H, W]."""
    a, b = draws.integer(-4, 4), draws.integer(1, 4)
    ramp = a * _X + b * _Y
    return ((ramp - ramp.min()) * 255 // int(ramp.max() - ramp.min())).astype(np.int16)


def _fog(draws: Draws) -> np.ndarray:
    """Noise from broad to fine: int16 [H, W]."""
    return _clouds(draws, 96, 40, 16, 6)


def _speckle(draws: Draws) -> np.ndarray:
    """Noise of a few pixels: int16 [H, W]."""
    return _clouds(draws, draws.integer(2, 5), draws.integer(6, 24))


def _blotches(draws: Draws) -> np.ndarray:
    """Stains with edges: int16 [H, W]."""
    return _cut(_clouds(draws, draws.integer(24, 80), 12), draws.integer(100, 156), draws.integer(2, 8))


def _stripes(draws: Draws) -> np.ndarray:
    """Soft or hard stripes: int16 [H, W]."""
    return _cut(_wave(draws, 8, 60), 128, draws.integer(1, 6))


def _ruled(draws: Draws) -> np.ndarray:
    """Ruled or squared paper: int16 [H, W]."""
    step, thick = draws.integer(12, 40), draws.integer(1, 2)
    lines = np.broadcast_to((_Y + draws.integer(0, step)) % step < thick, (HEIGHT, WIDTH))
    if draws.chance(60):
        lines = lines | ((_X + draws.integer(0, step)) % step < thick)
    return np.maximum(lines * np.int16(255), _fog(draws) >> 2)


def _weave(draws: Draws) -> np.ndarray:
    """Two sets of stripes across each other: int16 [H, W]."""
    return _cut((_wave(draws, 6, 40) + _wave(draws, 6, 40)) >> 1, 128, draws.integer(1, 3))


TEXTURES: tuple[Callable[[Draws], np.ndarray], ...] = (_plain, _fog, _speckle, _blotches, _stripes, _ruled, _weave)


def _segment(coverage: np.ndarray, start: tuple[int, int], end: tuple[int, int], radius: int) -> None:
    """Draws a round-ended stroke into coverage [H, W] in place; points (x, y) in pixels, radius in half pixels."""
    (x1, y1), (x2, y2) = start, end
    reach = radius // 2 + 2
    rows = slice(max(min(y1, y2) - reach, 0), max(max(y1, y2) + reach + 1, 0))
    columns = slice(max(min(x1, x2) - reach, 0), max(max(x1, x2) + reach + 1, 0))
    px, py = _X[:, columns].astype(np.int64) - x1, _Y[rows].astype(np.int64) - y1
    dx, dy = x2 - x1, y2 - y1
    length = max(dx * dx + dy * dy, 1)
    along = np.clip(px * dx + py * dy, 0, length) * 1024 // length  # in 1/1024 of the segment
    ox, oy = px * 1024 - along * dx, py * 1024 - along * dy
    distance = (ox * ox + oy * oy) >> 18  # squared, in half pixels
    # R² − d² is about 2R·(R − d): an edge of a pixel and a half without a root.
    soft = np.clip(128 + (radius * radius - distance) * 170 // (4 * radius), 0, 255)
    np.maximum(coverage[rows, columns], soft, out=coverage[rows, columns], casting="unsafe")


def _curve(draws: Draws) -> np.ndarray:
    """A long bent stroke (quadratic Bézier) across the sheet: int16 [H, W]."""
    coverage = np.zeros((HEIGHT, WIDTH), np.int16)
    points = [(draws.integer(-40, WIDTH + 40), draws.integer(-40, HEIGHT + 40)) for _ in range(3)]
    radius, pieces = draws.integer(1, 5), 12
    (ax, ay), (bx, by), (cx, cy) = points
    path = []
    for k in range(pieces + 1):
        a, b, c = (pieces - k) ** 2, 2 * k * (pieces - k), k * k
        path.append(((a * ax + b * bx + c * cx) // pieces**2, (a * ay + b * by + c * cy) // pieces**2))
    for start, end in pairwise(path):
        _segment(coverage, start, end, radius)
    return coverage


def _zigzag(draws: Draws) -> np.ndarray:
    """A scribble of five strokes to and fro, of a digit's size: int16 [H, W]."""
    coverage = np.zeros((HEIGHT, WIDTH), np.int16)
    size, radius = draws.reciprocal(14, 50), draws.integer(2, 6)
    x, y = draws.integer(0, WIDTH), draws.integer(0, HEIGHT)
    for k in range(5):
        to = x + draws.integer(size // 4, size // 2), y + (size if k % 2 else -size) + draws.integer(-4, 4)
        _segment(coverage, (x, y), to, radius)
        x, y = to
    return coverage


def _cross(draws: Draws) -> np.ndarray:
    """Two strokes through one point: int16 [H, W]."""
    coverage = np.zeros((HEIGHT, WIDTH), np.int16)
    x, y, radius = draws.integer(0, WIDTH), draws.integer(0, HEIGHT), draws.integer(2, 7)
    a, b = draws.reciprocal(8, 40), draws.integer(-12, 12)
    _segment(coverage, (x - a, y - b), (x + a, y + b), radius)
    _segment(coverage, (x - b, y + a), (x + b, y - a), radius)
    return coverage


def _patch(draws: Draws) -> np.ndarray:
    """A filled, turned rectangle: int16 [H, W]."""
    x, y = draws.integer(0, WIDTH), draws.integer(0, HEIGHT)
    a, b = draws.integer(-8, 8), draws.integer(1, 8)
    unit = isqrt((a * a + b * b) * 4096)  # 64 times the length of (a, b)
    along, across = ((_X - x) * a + (_Y - y) * b) * 4096 // unit, ((_X - x) * b - (_Y - y) * a) * 4096 // unit
    inside = np.minimum(draws.integer(6, 45) * 64 - np.abs(along), draws.integer(6, 45) * 64 - np.abs(across))
    return np.clip(128 + inside * 170 // 64, 0, 255).astype(np.int16)


def _dots(draws: Draws) -> np.ndarray:
    """A handful of spots: int16 [H, W]."""
    coverage = np.zeros((HEIGHT, WIDTH), np.int16)
    for _ in range(draws.integer(2, 8)):
        spot = draws.integer(0, WIDTH), draws.integer(0, HEIGHT)
        _segment(coverage, spot, spot, draws.reciprocal(3, 24))
    return coverage


MARKS: tuple[Callable[[Draws], np.ndarray], ...] = (_curve, _zigzag, _cross, _patch, _dots)
