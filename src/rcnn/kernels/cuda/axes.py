"""What the GPU's pooling kernels compute along one axis of a RoI or map, in Triton: samples, bins, tiles, levels.

Everything here is float32 in the reference's own order of operations, divisions rounded as IEEE says, so that the
same bins and samples come out on every device; `launch` therefore turns fused multiply-adds off.
"""

# Triton reads the annotations of a kernel as types of its own, so these functions carry those it knows, or none.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = tl.constexpr(8)  # pixels along a side of the piece of a gradient map that one program sums
PRECISION = tl.constexpr("tf32x3")  # three products of the tensor cores, whose sum is as good as float32
CHUNK = tl.constexpr(128)  # RoIs among which a program looks at once for those that reach its tile


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Runs a kernel on the device of its first tensor, or nothing where the grid is empty; waits for nothing."""
    if 0 in grid:
        return
    first = next(a for a in arguments if isinstance(a, Tensor))
    with torch.cuda.device_of(first):
        kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)


def pixels_first(feature: Tensor) -> Tensor:
    """The map [B, C, H, W] as [B, H, W, C]; no copy where it is channels-last."""
    return feature.detach().permute(0, 2, 3, 1).contiguous()


def span(channels: int, dtype: torch.dtype) -> int:
    """Channels of one program: a cache line of 128 bytes, fewer where there are no more."""
    return max(16, min(128 // dtype.itemsize, triton.next_power_of_2(channels)))


def floats(numbers: Sequence[float]) -> tuple[float, ...]:
    """One number of each map for a kernel, to be read by `pick`.

    Triton compiles a kernel anew when an integer in a tuple becomes 1 or divisible by 16; floats it takes as they come.
    """
    return tuple(float(number) for number in numbers)


def tiles(heights: Sequence[int], widths: Sequence[int]) -> tuple[tuple[float, ...], int]:
    """The number of each map's first tile, and how many tiles all maps have."""
    each = [triton.cdiv(h, TILE.value) * triton.cdiv(w, TILE.value) for h, w in zip(heights, widths, strict=True)]
    *firsts, total = itertools.accumulate(each, initial=0)
    return floats(firsts), total


@triton.jit
def pick(values, level):
    """The entry of a tuple of floats or pointers that belongs to a level."""
    chosen = values[0]
    for i in tl.static_range(len(values)):
        chosen = tl.where(level == i, values[i], chosen)
    return chosen


@triton.jit
def tile_at(tile, firsts, heights, widths):
    """Where a tile lies: its level, first row and column, and the height and width of its map."""
    level = 0
    for i in tl.static_range(1, len(firsts)):
        level += (tile >= firsts[i]).to(tl.int32)
    height, width = pick(heights, level).to(tl.int32), pick(widths, level).to(tl.int32)
    local, across = tile - pick(firsts, level).to(tl.int32), tl.cdiv(width, TILE)
    return level, local // across * TILE, local % across * TILE, height, width


@triton.jit
def box_on_map(boxes, roi, scale):
    """The corners of a box in pixels of its map."""
    x1, y1 = tl.load(boxes + roi * 4) * scale, tl.load(boxes + roi * 4 + 1) * scale
    x2, y2 = tl.load(boxes + roi * 4 + 2) * scale, tl.load(boxes + roi * 4 + 3) * scale
    return x1, y1, x2, y2


@triton.jit
def reaching(boxes, levels, image, chunk, proposals, level, scale, top, left):
    """The numbers in their image of those RoIs of a chunk that may reach a tile; for others the number of all."""
    numbers = chunk + tl.arange(0, CHUNK)
    known = numbers < proposals
    rois = tl.where(known, image * proposals + numbers, 0)
    x1, y1, x2, y2 = box_on_map(boxes, rois, scale)
    reaches = known & (tl.load(levels + rois) == level)
    # Two pixels more than a RoI reads; of some rules it has a pixel where its box is empty.
    reaches &= (tl.minimum(y1, y2) - 2 < top + TILE) & (tl.maximum(y1, y2) + 2 > top)
    reaches &= (tl.minimum(x1, x2) - 2 < left + TILE) & (tl.maximum(x1, x2) + 2 > left)
    return tl.where(reaches, numbers, proposals)


@triton.jit
def round_half_away(x):
    """The nearest whole number, half away from zero."""
    size = tl.floor(tl.abs(x))
    size += tl.where(tl.abs(x) - size >= 0.5, 1.0, 0.0)
    return tl.where(x < 0, -size, size)


@triton.jit
def inside(edge, most):
    """An edge in whole float pixels as an integer of 0 … `most`; 0 for what is not a number."""
    return tl.where(edge > 0, tl.minimum(edge, most.to(tl.float32)), 0.0).to(tl.int32)


@triton.jit
def sampling(start, end, SIZE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr):
    """RoIAlign's first position, width of a bin, and samples of a bin along an axis, from corners in map pixels."""
    if ALIGNED:
        start, end = start - 0.5, end - 0.5
    length = end - start
    sane = tl.abs(length) < 1e9  # a number, and something that a map could hold
    if not ALIGNED:
        length = tl.maximum(length, 1.0)
    width = tl.div_rn(length, SIZE * 1.0)
    if SAMPLES > 0:
        samples = tl.where(sane, SAMPLES, 0)
    else:
        samples = tl.where(sane, tl.maximum(tl.ceil(width), 0.0), 0.0).to(tl.int32)
    return start, width, samples


@triton.jit
def useful_samples(start, width, samples, extent, bins, SAMPLES: tl.constexpr):
    """The first sample of each bin that can lie on the map, and how many can.

    Of a vast box only the samples about the map are taken, so that no box makes a program long.
    """
    begin = start + bins.to(tl.float32) * width
    if SAMPLES > 0:
        low = tl.zeros_like(begin).to(tl.int32)
        return low, low + samples
    step = tl.where(samples > 0, tl.div_rn(width, tl.maximum(samples, 1).to(tl.float32)), 1.0)
    low = inside(tl.floor((-1 - begin) / step) - 2, samples)
    high = inside(tl.floor((extent - begin) / step) + 3, samples)
    return low, tl.maximum(high - low, 0)


@triton.jit
def position(start, width, samples, bins, sample):
    """Where a sample of each bin lies."""
    share = tl.div_rn(sample.to(tl.float32) + 0.5, tl.maximum(samples, 1).to(tl.float32))
    return start + (bins.to(tl.float32) + share) * width


@triton.jit
def corners(at, extent):
    """Of positions: whether they lie on the map, their pixel, the next one, and how far they are towards that."""
    on = (at >= -1) & (at <= extent)
    at = tl.where(on, tl.minimum(tl.maximum(at, 0.0), extent - 1.0), 0.0)
    pixel = at.to(tl.int32)
    return on, pixel, tl.minimum(pixel + 1, extent - 1), at - pixel.to(tl.float32)


@triton.jit
def align_weights(start, end, extent, pixels, bins, SIZE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr):
    """The mean weights [T, n] with which n bins, of one RoI or one each of n RoIs, read pixels [T]."""
    start, width, samples = sampling(start, end, SIZE, SAMPLES, ALIGNED)
    low, useful = useful_samples(start, width, samples, extent, bins, SAMPLES)
    total = tl.zeros((pixels.shape[0], low.shape[0]), tl.float32)
    for s in range(tl.max(useful, 0)):
        at = position(start, width, samples, bins, low + s)
        on = (at >= -1) & (at <= extent) & (low + s < samples)
        at = tl.minimum(tl.maximum(at, 0.0), extent - 1.0)
        hat = tl.maximum(1 - tl.abs(at[None, :] - pixels.to(tl.float32)[:, None]), 0.0)
        total += tl.where(on[None, :], hat, 0.0)
    return total / (low * 0 + tl.maximum(samples, 1)).to(tl.float32)[None, :]
