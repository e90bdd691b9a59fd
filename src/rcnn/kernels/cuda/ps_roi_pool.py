"""Position-sensitive RoI pooling on a GPU: one program for one bin of one RoI, whose outputs lie side by side.

Backward, a program owns 8 × 8 pixels of one bin's maps: the weights with which 32 RoIs read them, times the gradients
of those RoIs, summed in their order, so that the result is the same to the bit in each run. Letters: B images, N RoIs,
R = B·N, D outputs, k pooled side, H W height and width of the map.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.kernels import torchvision_ops
from rcnn.kernels.cuda.axes import (
    PRECISION,
    TILE,
    align_weights,
    corners,
    inside,
    launch,
    pixels_first,
    position,
    round_half_away,
    sampling,
    useful_samples,
)

PIXELS = tl.constexpr(16)  # read at once
ROIS = tl.constexpr(32)  # whose gradients are summed in one product
SIDES = ["height", "width", "proposals"]  # numbers that must not make Triton compile anew


def ps_roi_pool(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    """Pooled outputs [B, N, k², D] of boxes [B, N, 4] in a map [B, k²·D, H, W]; see `rcnn.kernels.ps_roi_pool`."""
    if feature.dtype == torch.float64:  # which only checks use
        return torchvision_ops.ps_roi_pool(feature, boxes, valid, stride, size, rule, sampling_ratio)
    outputs, (height, width) = feature.shape[1] // (size * size), feature.shape[2:]
    pooled = feature.new_empty((*valid.shape, size * size, outputs))
    part = min(64, max(16, triton.next_power_of_2(outputs)))
    launch(
        _forward,
        (valid.numel(), size * size, triton.cdiv(outputs, part)),
        pooled,
        pixels_first(feature),
        height,
        width,
        1 / stride,
        boxes.contiguous(),
        valid.contiguous(),
        valid.shape[1],
        OUTPUTS=outputs,
        SIZE=size,
        RULE=rule,
        SAMPLES=sampling_ratio,
        SPAN=part,
        warps=2,
    )
    return pooled


def ps_roi_pool_backward(
    grad: Tensor, boxes: Tensor, valid: Tensor, height: int, width: int, stride: float, rule: str, sampling_ratio: int
) -> Tensor:
    """The gradient map [B, k²·D, H, W], channels-last, for the gradient [B, N, k², D] of `ps_roi_pool`."""
    if grad.dtype == torch.float64:
        return torchvision_ops.ps_roi_pool_backward(grad, boxes, valid, height, width, stride, rule, sampling_ratio)
    images, proposals, bins, outputs = grad.shape
    total = grad.new_empty((images, height, width, bins * outputs))
    part = min(64, max(16, triton.next_power_of_2(outputs)))
    across = triton.cdiv(width, TILE.value)
    launch(
        _backward,
        (across * triton.cdiv(height, TILE.value), bins * triton.cdiv(outputs, part), images),
        grad.contiguous(),
        total,
        height,
        width,
        1 / stride,
        boxes.contiguous(),
        valid.contiguous(),
        proposals,
        OUTPUTS=outputs,
        SIZE=round(bins**0.5),
        RULE=rule,
        SAMPLES=sampling_ratio,
        SPAN=part,
    )
    return total.permute(0, 3, 1, 2)


@triton.jit
def _range(start, end, scale, extent, bin, SIZE: tl.constexpr, RULE: tl.constexpr):
    """The first pixel of a bin of each RoI along one axis, and the first after it, by the rules of whole pixels."""
    if RULE == "caffe":
        begin = round_half_away(start) * scale
        width = tl.div_rn(tl.maximum((round_half_away(end) + 1) * scale - begin, 0.1), SIZE * 1.0)
        low, high = tl.floor(bin.to(tl.float32) * width + begin), tl.ceil((bin + 1).to(tl.float32) * width + begin)
        last = extent
    else:
        begin = round_half_away(start * scale)
        width = tl.div_rn(tl.maximum(round_half_away(end * scale) - begin, 1.0), SIZE * 1.0)
        low, high = tl.floor(bin.to(tl.float32) * width) + begin, tl.ceil((bin + 1).to(tl.float32) * width) + begin
        last = extent - 1
    return inside(low, last), inside(high, last)


@triton.jit(do_not_specialize=SIDES)
def _forward(
    pooled,  # [R, k², D]
    feature,  # [B, H, W, k²·D]
    height,
    width,
    scale,
    boxes,  # [R, 4]
    valid,  # [R]
    proposals,
    OUTPUTS: tl.constexpr,
    SIZE: tl.constexpr,
    RULE: tl.constexpr,
    SAMPLES: tl.constexpr,
    SPAN: tl.constexpr,
):
    roi, bin = tl.program_id(0), tl.program_id(1)
    outputs = tl.program_id(2) * SPAN + tl.arange(0, SPAN)
    known = (outputs < OUTPUTS)[None, :]
    total, count = tl.zeros((SPAN,), tl.float32), 0
    if tl.load(valid + roi).to(tl.int32) != 0:
        x1, y1 = tl.load(boxes + roi * 4), tl.load(boxes + roi * 4 + 1)
        x2, y2 = tl.load(boxes + roi * 4 + 2), tl.load(boxes + roi * 4 + 3)
        channels = SIZE * SIZE * OUTPUTS
        maps = feature + (roi // proposals).to(tl.int64) * height * width * channels + bin * OUTPUTS + outputs[None, :]
        lanes = tl.arange(0, PIXELS)
        if RULE == "align":
            top, tall, down = sampling(y1 * scale, y2 * scale, SIZE, SAMPLES, True)
            left, wide, across = sampling(x1 * scale, x2 * scale, SIZE, SAMPLES, True)
            first_row, rows = useful_samples(top, tall, down, height, bin // SIZE, SAMPLES)
            first_column, columns = useful_samples(left, wide, across, width, bin % SIZE, SAMPLES)
            for start in range(0, rows * columns, PIXELS):
                sample = start + lanes
                i, j = first_row + sample // columns, first_column + sample % columns
                on_y, y, below, v = corners(position(top, tall, down, bin // SIZE, i), height)
                on_x, x, right, u = corners(position(left, wide, across, bin % SIZE, j), width)
                on = (on_y & on_x & (sample < rows * columns))[:, None] & known
                a = tl.load(maps + (y * width + x)[:, None] * channels, mask=on, other=0).to(tl.float32)
                b = tl.load(maps + (y * width + right)[:, None] * channels, mask=on, other=0).to(tl.float32)
                c = tl.load(maps + (below * width + x)[:, None] * channels, mask=on, other=0).to(tl.float32)
                d = tl.load(maps + (below * width + right)[:, None] * channels, mask=on, other=0).to(tl.float32)
                upper = a * (1 - u)[:, None] + b * u[:, None]
                lower = c * (1 - u)[:, None] + d * u[:, None]
                total += tl.sum(upper * (1 - v)[:, None] + lower * v[:, None], 0)
            count = down * across
        else:
            top, bottom = _range(y1, y2, scale, height, bin // SIZE, SIZE, RULE)
            left, right = _range(x1, x2, scale, width, bin % SIZE, SIZE, RULE)
            columns = tl.maximum(right - left, 0)
            count = tl.maximum(bottom - top, 0) * columns
            for start in range(0, count, PIXELS):
                pixel = start + lanes
                at = (top + pixel // columns) * width + left + pixel % columns
                on = (pixel < count)[:, None] & known
                total += tl.sum(tl.load(maps + at[:, None] * channels, mask=on, other=0).to(tl.float32), 0)
    total = total / tl.maximum(count, 1)
    place = pooled + (roi.to(tl.int64) * SIZE * SIZE + bin) * OUTPUTS + outputs
    tl.store(place, total.to(pooled.dtype.element_ty), mask=outputs < OUTPUTS)


@triton.jit
def _weights(start, end, scale, extent, bin, pixels, SIZE: tl.constexpr, RULE: tl.constexpr, SAMPLES: tl.constexpr):
    """The weights [T, ROIS] with which a bin of RoIs [ROIS] reads pixels [T] along one axis."""
    if RULE == "align":
        return align_weights(start * scale, end * scale, extent, pixels, bin, SIZE, SAMPLES, True)
    low, high = _range(start, end, scale, extent, bin, SIZE, RULE)
    within = (pixels[:, None] >= low[None, :]) & (pixels[:, None] < high[None, :])
    return within.to(tl.float32) / tl.maximum(high - low, 1).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=SIDES)
def _backward(
    grad,  # [B, N, k², D]
    total,  # [B, H, W, k²·D], filled
    height,
    width,
    scale,
    boxes,  # [B, N, 4]
    valid,  # [B, N]
    proposals,
    OUTPUTS: tl.constexpr,
    SIZE: tl.constexpr,
    RULE: tl.constexpr,
    SAMPLES: tl.constexpr,
    SPAN: tl.constexpr,
):
    tile, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    bin, part = tl.program_id(1) % (SIZE * SIZE), tl.program_id(1) // (SIZE * SIZE)
    across = tl.cdiv(width, TILE)
    top, left = tile // across * TILE, tile % across * TILE
    outputs = part * SPAN + tl.arange(0, SPAN)
    known = outputs < OUTPUTS
    ys, xs = top + tl.arange(0, TILE), left + tl.arange(0, TILE)
    sums = tl.zeros((TILE * TILE, SPAN), tl.float32)
    for start in range(0, proposals, ROIS):
        numbers = start + tl.arange(0, ROIS)
        rois = image * proposals + numbers
        there = numbers < proposals
        there &= tl.load(valid + rois, mask=there, other=0).to(tl.int32) != 0
        x1 = tl.load(boxes + rois * 4, mask=there, other=0)
        y1 = tl.load(boxes + rois * 4 + 1, mask=there, other=0)
        x2 = tl.load(boxes + rois * 4 + 2, mask=there, other=0)
        y2 = tl.load(boxes + rois * 4 + 3, mask=there, other=0)
        down = _weights(y1, y2, scale, height, bin // SIZE, ys, SIZE, RULE, SAMPLES)  # [TILE, ROIS]
        down = tl.where(there[None, :], down, 0.0)
        if tl.max(tl.max(down, 1), 0) > 0:
            side = _weights(x1, x2, scale, width, bin % SIZE, xs, SIZE, RULE, SAMPLES)
            weights = tl.reshape(down[:, None, :] * side[None, :, :], (TILE * TILE, ROIS))
            place = (rois[:, None] * (SIZE * SIZE) + bin) * OUTPUTS + outputs[None, :]
            given = tl.load(grad + place, mask=there[:, None] & known[None, :], other=0).to(tl.float32)
            sums = tl.dot(weights, given, sums, input_precision=PRECISION)
    pixels = tl.arange(0, TILE * TILE)
    y, x = top + pixels // TILE, left + pixels % TILE
    place = ((image * height + y) * width + x)[:, None] * (SIZE * SIZE * OUTPUTS) + bin * OUTPUTS + outputs[None, :]
    there = ((y < height) & (x < width))[:, None] & known[None, :]
    tl.store(total + place, sums.to(total.dtype.element_ty), mask=there)
