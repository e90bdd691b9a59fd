"""RoIAlign on a GPU: all maps in one launch, the level of a RoI picks the map; the channels lie side by side in memory.

Forward, a program holds all bins (or 64 of them) of one RoI in a cache line of channels. Backward, nothing is added
atomically: a program owns 8 × 8 pixels of a gradient map, looks up the RoIs that reach them, and sums `Yᵀ G X` (see
the reference) in their order, so the result is the same to the bit in each run. Letters: B images, N RoIs, R = B·N,
C channels, P pooled side, H W height and width of a map.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.kernels import torchvision_ops
from rcnn.kernels.cuda.axes import (
    CHUNK,
    PRECISION,
    TILE,
    align_weights,
    box_on_map,
    corners,
    floats,
    launch,
    pick,
    pixels_first,
    position,
    reaching,
    sampling,
    span,
    tile_at,
    tiles,
    useful_samples,
)
from rcnn.kernels.roi_align import empty_maps


def roi_align(
    features: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: list[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_align`."""
    if features[0].dtype == torch.float64:  # which only checks use
        return torchvision_ops.roi_align(features, boxes, levels, strides, size, sampling_ratio, aligned)
    channels = features[0].shape[1]
    pooled = features[0].new_empty((*levels.shape, channels, size, size))
    bins, part = min(64, triton.next_power_of_2(size * size)), span(channels, pooled.dtype)
    launch(
        _forward,
        (levels.numel(), triton.cdiv(size * size, bins), triton.cdiv(channels, part)),
        pooled,
        tuple(pixels_first(feature) for feature in features),
        floats([feature.shape[2] for feature in features]),
        floats([feature.shape[3] for feature in features]),
        floats([1 / stride for stride in strides]),
        boxes.contiguous(),
        levels.contiguous(),
        levels.shape[1],
        CHANNELS=channels,
        SIZE=size,
        SAMPLES=sampling_ratio,
        ALIGNED=aligned,
        BINS=bins,
        SPAN=part,
    )
    return pooled


def roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    levels: Tensor,
    heights: list[int],
    widths: list[int],
    strides: list[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_align`."""
    if grad.dtype == torch.float64:
        return torchvision_ops.roi_align_backward(
            grad, boxes, levels, heights, widths, strides, sampling_ratio, aligned
        )
    images, proposals, channels, size, _ = grad.shape
    maps = empty_maps(grad, heights, widths)
    firsts, total = tiles(heights, widths)
    part = span(channels, grad.dtype)
    columns = max(4, triton.next_power_of_2(size))
    launch(
        _backward,
        (total, triton.cdiv(channels, part), images),
        grad.contiguous(),
        tuple(maps),
        floats(heights),
        floats(widths),
        floats([1 / stride for stride in strides]),
        firsts,
        boxes.contiguous(),
        levels.contiguous(),
        proposals,
        CHANNELS=channels,
        SIZE=size,
        SAMPLES=sampling_ratio,
        ALIGNED=aligned,
        ROWS=max(1, 64 // columns),
        COLUMNS=columns,
        SPAN=part,
    )
    return maps


@triton.jit(do_not_specialize=["proposals"])
def _forward(
    pooled,  # [R, C, P·P]
    maps,  # of [B, H, W, C]
    heights,
    widths,
    scales,
    boxes,  # [R, 4]
    levels,  # [R]
    proposals,
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,
    SAMPLES: tl.constexpr,
    ALIGNED: tl.constexpr,
    BINS: tl.constexpr,
    SPAN: tl.constexpr,
):
    roi = tl.program_id(0)
    bins = tl.program_id(1) * BINS + tl.arange(0, BINS)
    channels = tl.program_id(2) * SPAN + tl.arange(0, SPAN)
    level = tl.load(levels + roi).to(tl.int32)
    total = tl.zeros((BINS, SPAN), tl.float32)
    if (level >= 0) & (level < len(maps)):
        height, width = pick(heights, level).to(tl.int32), pick(widths, level).to(tl.int32)
        scale = pick(scales, level)
        image = pick(maps, level) + (roi // proposals).to(tl.int64) * height * width * CHANNELS + channels[None, :]
        x1, y1, x2, y2 = box_on_map(boxes, roi, scale)
        top, tall, down = sampling(y1, y2, SIZE, SAMPLES, ALIGNED)
        left, wide, across = sampling(x1, x2, SIZE, SAMPLES, ALIGNED)
        first_row, useful_rows = useful_samples(top, tall, down, height, bins // SIZE, SAMPLES)
        first_column, useful_columns = useful_samples(left, wide, across, width, bins % SIZE, SAMPLES)
        there = (bins < SIZE * SIZE)[:, None] & (channels < CHANNELS)[None, :]
        for i in range(tl.max(useful_rows, 0)):
            at = position(top, tall, down, bins // SIZE, first_row + i)
            on_y, y, below, v = corners(at, height)
            on_y &= first_row + i < down
            for j in range(tl.max(useful_columns, 0)):
                at = position(left, wide, across, bins % SIZE, first_column + j)
                on_x, x, right, u = corners(at, width)
                on = (on_y & on_x & (first_column + j < across))[:, None] & there
                above, under = (y * width)[:, None], (below * width)[:, None]
                a = tl.load(image + (above + x[:, None]) * CHANNELS, mask=on, other=0).to(tl.float32)
                b = tl.load(image + (above + right[:, None]) * CHANNELS, mask=on, other=0).to(tl.float32)
                c = tl.load(image + (under + x[:, None]) * CHANNELS, mask=on, other=0).to(tl.float32)
                d = tl.load(image + (under + right[:, None]) * CHANNELS, mask=on, other=0).to(tl.float32)
                upper = a * (1 - u)[:, None] + b * u[:, None]
                lower = c * (1 - u)[:, None] + d * u[:, None]
                total += upper * (1 - v)[:, None] + lower * v[:, None]
        total = total / tl.maximum(down * across, 1).to(tl.float32)
    # The pooled features have their bins innermost: the tile is turned on its way out.
    place = pooled + roi.to(tl.int64) * (CHANNELS * SIZE * SIZE) + channels[None, :] * (SIZE * SIZE) + bins[:, None]
    there = (bins < SIZE * SIZE)[:, None] & (channels < CHANNELS)[None, :]
    tl.store(place, total.to(pooled.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["proposals"])
def _backward(
    grad,  # [B, N, C, P·P]
    maps,  # of [B, H, W, C], filled
    heights,
    widths,
    scales,
    firsts,  # the number of each map's first tile
    boxes,  # [B, N, 4]
    levels,  # [B, N]
    proposals,
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,
    SAMPLES: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,  # rows of bins in one product
    COLUMNS: tl.constexpr,  # at least P
    SPAN: tl.constexpr,
):
    level, top, left, height, width = tile_at(tl.program_id(0), firsts, heights, widths)
    image, scale = tl.program_id(2), pick(scales, level)
    channels = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    ys, xs = top + tl.arange(0, TILE), left + tl.arange(0, TILE)
    bins = tl.arange(0, ROWS * COLUMNS)
    total = tl.zeros((TILE * TILE, SPAN), tl.float32)
    for chunk in range(0, proposals, CHUNK):
        waiting = reaching(boxes, levels, image, chunk, proposals, level, scale, top, left)
        number = tl.min(waiting, 0)
        while number < proposals:
            roi = image * proposals + number
            x1, y1, x2, y2 = box_on_map(boxes, roi, scale)
            given = grad + roi.to(tl.int64) * (CHANNELS * SIZE * SIZE) + channels[None, :] * (SIZE * SIZE)
            columns = tl.arange(0, COLUMNS)
            across = align_weights(x1, x2, width, xs, columns, SIZE, SAMPLES, ALIGNED)  # [TILE, COLUMNS]
            for first in range(0, SIZE, ROWS):
                rows = first + tl.arange(0, ROWS)
                down = align_weights(y1, y2, height, ys, rows, SIZE, SAMPLES, ALIGNED)  # [TILE, ROWS]
                weights = down[:, None, :, None] * across[None, :, None, :]
                weights = tl.reshape(weights, (TILE * TILE, ROWS * COLUMNS))
                row, column = first + bins // COLUMNS, bins % COLUMNS
                there = ((row < SIZE) & (column < SIZE))[:, None] & (channels < CHANNELS)[None, :]
                values = tl.load(given + (row * SIZE + column)[:, None], mask=there, other=0).to(tl.float32)
                total = tl.dot(weights, values, total, input_precision=PRECISION)
            waiting = tl.where(waiting == number, proposals, waiting)
            number = tl.min(waiting, 0)
    pixels = tl.arange(0, TILE * TILE)
    y, x = top + pixels // TILE, left + pixels % TILE
    place = (image.to(tl.int64) * height * width + y * width + x)[:, None] * CHANNELS + channels[None, :]
    there = ((y < height) & (x < width))[:, None] & (channels < CHANNELS)[None, :]
    out = pick(maps, level)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=there)
