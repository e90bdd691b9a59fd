"""RoI max pooling on a GPU: all maps in one launch; the channels lie side by side in memory.

Backward, the maxima are looked for again and their pixels noted; then each program owns 8 × 8 pixels of a gradient map
and collects from the bins whose maximum they hold, RoI after RoI, so that the result is the same to the bit in each
run. Letters: B images, N RoIs, R = B·N, C channels, P pooled side, H W height and width of a map.
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
    TILE,
    box_on_map,
    floats,
    inside,
    launch,
    pick,
    pixels_first,
    reaching,
    round_half_away,
    span,
    tile_at,
    tiles,
)
from rcnn.kernels.roi_align import empty_maps


def roi_pool(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_pool`."""
    if features[0].dtype == torch.float64:  # which only checks use
        return torchvision_ops.roi_pool(features, boxes, levels, strides, size)
    pooled = features[0].new_empty((*levels.shape, features[0].shape[1], size, size))
    _look(pooled, features, boxes, levels, strides, size, where=False)
    return pooled


def roi_pool_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    if grad.dtype == torch.float64:
        return torchvision_ops.roi_pool_backward(grad, features, boxes, levels, strides)
    images, proposals, channels, size, _ = grad.shape
    heights, widths = [f.shape[2] for f in features], [f.shape[3] for f in features]
    pixels = torch.empty((images * proposals, size * size, channels), dtype=torch.int32, device=grad.device)
    _look(pixels, features, boxes, levels, strides, size, where=True)
    maps = empty_maps(grad, heights, widths)
    firsts, total = tiles(heights, widths)
    part = span(channels, grad.dtype)
    launch(
        _backward,
        (total, triton.cdiv(channels, part), images),
        grad.flatten(3).transpose(2, 3).contiguous(),  # [B, N, P·P, C]
        pixels,
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
        SPAN=part,
    )
    return maps


def _look(
    out: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int, *, where: bool
) -> None:
    """Fills `out` with the maxima [R, C, P·P] of all bins, or with their pixels [R, P·P, C]."""
    channels = features[0].shape[1]
    bins, part = min(64, triton.next_power_of_2(size * size)), span(channels, features[0].dtype)
    launch(
        _maxima,
        (levels.numel(), triton.cdiv(size * size, bins), triton.cdiv(channels, part)),
        out,
        tuple(pixels_first(feature) for feature in features),
        floats([feature.shape[2] for feature in features]),
        floats([feature.shape[3] for feature in features]),
        floats([1 / stride for stride in strides]),
        boxes.contiguous(),
        levels.contiguous(),
        levels.shape[1],
        CHANNELS=channels,
        SIZE=size,
        BINS=bins,
        SPAN=part,
        WHERE=where,
    )


@triton.jit
def _edges(start, end, extent, bins, SIZE: tl.constexpr):
    """The first pixel of each bin along one axis, and the first after it, inside the map."""
    begin = round_half_away(start)
    width = tl.div_rn(tl.maximum(round_half_away(end) - begin + 1, 1.0), SIZE * 1.0)
    low = begin + tl.floor(bins * 1.0 * width)
    high = begin + tl.ceil((bins + 1) * 1.0 * width)
    return inside(low, extent), inside(high, extent)


@triton.jit(do_not_specialize=["proposals"])
def _maxima(
    out,  # [R, C, P·P], or [R, P·P, C] for the pixels
    maps,  # of [B, H, W, C]
    heights,
    widths,
    scales,
    boxes,  # [R, 4]
    levels,  # [R]
    proposals,
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,
    BINS: tl.constexpr,
    SPAN: tl.constexpr,
    WHERE: tl.constexpr,  # whether the pixel y·W + x is asked for; -1 in an empty bin
):
    roi = tl.program_id(0)
    bins = tl.program_id(1) * BINS + tl.arange(0, BINS)
    channels = tl.program_id(2) * SPAN + tl.arange(0, SPAN)
    level = tl.load(levels + roi).to(tl.int32)
    there = (bins < SIZE * SIZE)[:, None] & (channels < CHANNELS)[None, :]
    highest = tl.full((BINS, SPAN), float("-inf"), tl.float32)
    pixel = tl.full((BINS, SPAN), -1, tl.int32)
    if (level >= 0) & (level < len(maps)):
        height, width = pick(heights, level).to(tl.int32), pick(widths, level).to(tl.int32)
        image = pick(maps, level) + (roi // proposals).to(tl.int64) * height * width * CHANNELS + channels[None, :]
        x1, y1, x2, y2 = box_on_map(boxes, roi, pick(scales, level))
        top, bottom = _edges(y1, y2, height, bins // SIZE, SIZE)
        left, right = _edges(x1, x2, width, bins % SIZE, SIZE)
        rows, columns = tl.max(tl.where(bins < SIZE * SIZE, bottom - top, 0), 0), tl.max(right - left, 0)
        for i in range(rows):
            for j in range(columns):
                at = (top + i) * width + left + j
                on = ((top + i < bottom) & (left + j < right))[:, None] & there
                values = tl.load(image + at[:, None] * CHANNELS, mask=on, other=float("-inf")).to(tl.float32)
                # Strictly: of equals the first stays. The first pixel of a bin stands also where all are -∞.
                better = on & ((values > highest) | (pixel < 0))
                highest, pixel = tl.where(better, values, highest), tl.where(better, at[:, None], pixel)
    if WHERE:
        place = out + roi.to(tl.int64) * (CHANNELS * SIZE * SIZE) + bins[:, None] * CHANNELS + channels[None, :]
        tl.store(place, pixel, mask=there)
    else:
        place = out + roi.to(tl.int64) * (CHANNELS * SIZE * SIZE) + channels[None, :] * (SIZE * SIZE) + bins[:, None]
        tl.store(place, tl.where(pixel < 0, 0.0, highest).to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["proposals"])
def _backward(
    grad,  # [B, N, P·P, C]
    maxima,  # [B, N, P·P, C], the pixel of each
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
    SPAN: tl.constexpr,
):
    level, top, left, height, width = tile_at(tl.program_id(0), firsts, heights, widths)
    image, scale = tl.program_id(2), pick(scales, level)
    channels = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    known = channels < CHANNELS
    pixels = tl.arange(0, TILE * TILE)
    y, x = top + pixels // TILE, left + pixels % TILE
    own = y * width + x
    total = tl.zeros((TILE * TILE, SPAN), tl.float32)
    for chunk in range(0, proposals, CHUNK):
        waiting = reaching(boxes, levels, image, chunk, proposals, level, scale, top, left)
        number = tl.min(waiting, 0)
        while number < proposals:
            roi = image * proposals + number
            x1, y1, x2, y2 = box_on_map(boxes, roi, scale)
            for p in range(SIZE):
                first, last = _edges(y1, y2, height, p, SIZE)
                if (first < top + TILE) & (last > top):
                    for q in range(SIZE):
                        first, last = _edges(x1, x2, width, q, SIZE)
                        if (first < left + TILE) & (last > left):
                            place = ((roi.to(tl.int64) * SIZE + p) * SIZE + q) * CHANNELS + channels
                            where = tl.load(maxima + place, mask=known, other=-1)
                            given = tl.load(grad + place, mask=known, other=0).to(tl.float32)
                            total += tl.where(own[:, None] == where[None, :], given[None, :], 0.0)
            waiting = tl.where(waiting == number, proposals, waiting)
            number = tl.min(waiting, 0)
    place = (image.to(tl.int64) * height * width + own)[:, None] * CHANNELS + channels[None, :]
    out = pick(maps, level)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=((y < height) & (x < width))[:, None] & known[None, :])
