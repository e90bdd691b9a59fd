"""Turns an 8×8 handwritten digit into ink of any size, slant and thickness, in integer arithmetic only.

A source [8, 8] of grey levels 0–16 becomes a smooth field by separable cubic interpolation; the field is looked up
through an affine map and cut at a soft threshold, so that strokes keep sharp edges at every size. No floating-point
function is involved whose last bit could differ between platforms: rotations are rational (tangent half-angle), and
the one matrix product holds whole numbers far below 2^53, which float64 adds exactly in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

UPSCALING = 16
MARGIN = 2  # empty source cells around the 8×8
SIDE = (8 + 2 * MARGIN) * UPSCALING  # of the field
FULL = 4096  # field value of solid ink (grey level 16)


@dataclass(frozen=True)
class Shape:
    """How a digit is written: `longest` side of the ink in pixels; the rest are ratios of small whole numbers.

    Attributes:
        stretch: width over height relative to the source.
        slant: horizontal shift per unit of height.
        turn: tangent of half the rotation angle.
        threshold: field value at the edge of the ink: low is a broad pen, high a fine one.
    """

    longest: int
    stretch: Fraction
    slant: Fraction
    turn: Fraction
    threshold: int


def field(source: np.ndarray) -> np.ndarray:
    """The smooth field of a source [8, 8] of grey levels 0–16: int64 [192, 192], `FULL` where ink is solid."""
    weights = _interpolation()
    cells = np.pad(source.astype(np.int64), MARGIN + 1)
    around = sum(cells[1 + y : 13 + y, 1 + x : 13 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    sharp = 18 * cells[1:-1, 1:-1] - around  # 9·(2·g − mean of 3×3): opens the loops that 8×8 cells close
    # Exact: whole numbers below 2^47. The scale of `weights` is 12·32³ each way, grey level 16 is solid.
    exact = (weights @ sharp.astype(np.float64) @ weights.T).astype(np.int64)
    return exact // ((12 * 32**3) ** 2 * 9 * 16 // FULL)


def ink(source_field: np.ndarray, shape: Shape) -> np.ndarray:
    """Ink coverage 0–255 of a digit whose pixels of coverage ≥ 128 are about `shape.longest` long (within 6 pixels).

    Args:
        source_field: [192, 192] of `field`.
        shape: size, stretch, slant, rotation and thickness.

    Returns:
        int32 [H, W], cropped so that row 0, column 0, the last row and the last column each hold coverage ≥ 128
        or the softer edge just beside it (one pixel).
    """
    forward = _forward(shape)
    rows, columns = np.nonzero(source_field[::2, ::2] >= shape.threshold)
    points = np.stack((columns, rows)) * 2 + 1 - SIDE // 2  # [2, points], centred, in field pixels
    fixed = np.array([[int(entry * 4096) for entry in row] for row in forward], dtype=np.int64)
    mapped = fixed @ points  # [2, points] in 1/4096 field pixels
    low, high = mapped.min(1), mapped.max(1)
    extent = high - low
    scale = Fraction(shape.longest * 4096, int(extent.max()))  # output pixels per field pixel
    height, width = (int(side) * scale // 4096 + 5 for side in extent[::-1])
    centre = [Fraction(int(value), 8192) for value in low + high]  # of the ink, in mapped field pixels

    inverse = _inverse(forward, scale)
    x = np.arange(int(width), dtype=np.int64) * 2 + 1 - int(width)  # in half pixels from the middle
    y = (np.arange(int(height), dtype=np.int64) * 2 + 1 - int(height))[:, None]
    origin = [(r[0] * centre[0] + r[1] * centre[1]) * scale + SIDE // 2 for r in inverse]
    u, v = (
        x * int(r[0] * 2**15) + y * int(r[1] * 2**15) + int(o * 2**16) for r, o in zip(inverse, origin, strict=True)
    )  # [H, W] field coordinates in 1/65536
    value = _bilinear(source_field, u, v)
    # The field climbs by at most FULL over one source cell; this slope spreads an edge over about a pixel and a half.
    slope = int(scale * UPSCALING * 4096)
    coverage = 128 + (value - shape.threshold) * slope * 170 // (FULL * 4096)
    return _cropped(np.clip(coverage, 0, 255).astype(np.int32))


@cache
def _interpolation() -> np.ndarray:
    """Cubic weights [192, 12] times 12·32³: the mean of Catmull–Rom, which keeps strokes, and the smoother B-spline."""
    weights = np.zeros((SIDE, SIDE // UPSCALING))
    for position in range(SIDE):
        twice = 2 * position + 1 - UPSCALING  # 32 times the distance from the first cell's centre
        cell, t = divmod(twice, 2 * UPSCALING)
        one = 2 * UPSCALING
        s = one - t
        near = 2 * one**3 - 5 * t * t * one + 3 * t**3, 2 * one**3 - 5 * s * s * one + 3 * s**3
        spline = (s**3, 4 * one**3 - 6 * t * t * one + 3 * t**3, 4 * one**3 - 6 * s * s * one + 3 * s**3, t**3)
        catmull = (-t * s * s, *near, -s * t * t)
        for offset in range(4):
            column = cell - 1 + offset
            if 0 <= column < weights.shape[1]:
                weights[position, column] += spline[offset] + 3 * catmull[offset]
    return weights


def _forward(shape: Shape) -> list[list[Fraction]]:
    """The 2×2 map of source to paper: stretch, then slant, then rotation."""
    t = shape.turn
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    # Slant leans to the right going up, and y points down.
    return [
        [cos * shape.stretch, -cos * shape.slant - sin],
        [sin * shape.stretch, -sin * shape.slant + cos],
    ]


def _inverse(forward: list[list[Fraction]], scale: Fraction) -> list[list[Fraction]]:
    """The 2×2 map of output pixels back to field pixels."""
    (a, b), (c, d) = forward
    determinant = (a * d - b * c) * scale
    return [[d / determinant, -b / determinant], [-c / determinant, a / determinant]]


def _bilinear(values: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Looks up values [S, S] at x = u, y = v in 1/65536 pixels [H, W], pixel centres at half; empty outside: [H, W]."""
    u, v = u - 2**15, v - 2**15
    column, row = u >> 16, v >> 16
    inside = (column >= 0) & (row >= 0) & (column < SIDE - 1) & (row < SIDE - 1)
    index = np.where(inside, row * SIDE + column, 0)
    fx, fy = (u & 0xFFFF) >> 8, (v & 0xFFFF) >> 8
    flat = values.reshape(-1)
    top = flat[index] * (256 - fx) + flat[index + 1] * fx
    bottom = flat[index + SIDE] * (256 - fx) + flat[index + SIDE + 1] * fx
    return np.where(inside, (top * (256 - fy) + bottom * fy) >> 16, 0)


def _cropped(coverage: np.ndarray) -> np.ndarray:
    """Cuts coverage [H, W] to its ink of at least 128, leaving one pixel around it where there is one."""
    y1, x1, y2, x2 = bounds(coverage >= 128)
    return coverage[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1]


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight rectangle of a mask [H, W] with at least one true pixel: (y1, x1, y2, x2), ends excluded."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
