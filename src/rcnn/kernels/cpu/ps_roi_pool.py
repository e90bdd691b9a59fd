"""Position-sensitive RoI pooling on the CPU: the few rows and columns that each bin reads, with their weights, whatever
the rule; the inner loop runs over the bin's own maps, which lie side by side in channels-last maps and vectorise.

The backward pass gives each thread bins of its own, so that no two threads add to one place: its result does not depend
on the number of threads. Bin edges are computed in float32, as the released code does. Letters: B images, N RoIs,
R = B·N, D outputs, k pooled side, T taps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.roi_align import _add_scaled, _axis_taps, _room, computing, downwards, pixels_first
from rcnn.kernels.cpu.roi_pool import _round
from rcnn.kernels.cpu.threads import kernel, run, spans, threads
from rcnn.kernels.cpu.vectors import prefetch, weighted_sum

ALIGN, CAFFE, TORCHVISION = 0, 1, 2
RULES = {"align": ALIGN, "caffe": CAFFE, "torchvision": TORCHVISION}


def ps_roi_pool(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    """Pooled outputs [B, N, k², D] of boxes [B, N, 4] in a map [B, k²·D, H, W]; see `rcnn.kernels.ps_roi_pool`."""
    maps = pixels_first(feature)
    outputs = feature.shape[1] // (size * size)
    pooled = torch.empty((valid.numel(), size * size, outputs), dtype=computing(feature.dtype))
    corners, members = boxes.reshape(-1, 4).contiguous().numpy(), to_pool(boxes, valid)
    if len(members) < len(pooled):
        pooled.view(*valid.shape, -1)[~valid] = 0
    tasks = []
    for first, last in spans(len(members), least=64):
        part = members[first:last]
        arguments = (maps, part // valid.shape[1], corners, part, np.float32(1 / stride), size)
        tasks.append((_forward, *arguments, RULES[rule], sampling_ratio, pooled.numpy()))
    run(tasks)
    return pooled.view(*valid.shape, size * size, outputs).to(feature.dtype)


def ps_roi_pool_backward(
    grad: Tensor, boxes: Tensor, valid: Tensor, height: int, width: int, stride: float, rule: str, sampling_ratio: int
) -> Tensor:
    """The gradient map [B, k²·D, H, W], channels-last, for the gradient [B, N, k², D] of `ps_roi_pool`."""
    images, proposals, bins, outputs = grad.shape
    total = torch.zeros((images, height, width, bins * outputs), dtype=computing(grad.dtype))
    given = grad.to(total.dtype).contiguous().view(-1, bins, outputs).numpy()
    corners, members = boxes.reshape(-1, 4).contiguous().numpy(), to_pool(boxes, valid)
    parts = max(1, min(-(-threads() // images), bins))
    tasks = []
    for image in range(images):
        own = members[members // proposals == image]
        for part in range(parts):
            share = bins * part // parts, bins * (part + 1) // parts
            arguments = (total[image].numpy(), *share, corners, own, np.float32(1 / stride), round(bins**0.5))
            tasks.append((_backward, *arguments, RULES[rule], sampling_ratio, given))
    run(tasks)
    return total.permute(0, 3, 1, 2).to(grad.dtype)


def to_pool(boxes: Tensor, valid: Tensor) -> np.ndarray:
    """The numbers of the RoIs to pool, of boxes [B, N, 4], in the order in which they are."""
    return downwards(np.flatnonzero(valid.numpy()), valid.shape[1], boxes[..., 1].reshape(-1).numpy())


@kernel()
def _forward(
    feature: np.ndarray,  # [B, H, W, k²·D]
    images: np.ndarray,  # [n], which image each RoI is in
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs to pool
    scale: np.float32,
    size: int,
    rule: int,
    sampling_ratio: int,
    pooled: np.ndarray,  # [R, k², D], filled at the members
) -> None:
    _, height, width, channels = feature.shape
    _, bins, outputs = pooled.shape
    ratio = sampling_ratio if rule == ALIGN else 0
    rows, row_weights, row_taps = _room(size, ratio, height)
    columns, column_weights, column_taps = _room(size, ratio, width)
    most = rows.shape[1] * columns.shape[1]
    starts, weights = np.empty((2, most), np.int64), np.empty((2, most), feature.dtype)  # of this bin and the next one
    taps = np.zeros(2, np.int64)
    values, sums = feature.reshape(-1), pooled.reshape(-1)
    for k in range(len(members)):
        x1, y1, x2, y2 = boxes[members[k]]
        _bin_taps(y1, y2, scale, height, rule, ratio, rows, row_weights, row_taps)
        _bin_taps(x1, x2, scale, width, rule, ratio, columns, column_weights, column_taps)
        # Each turn asks for the memory of the next bin, then adds up its own.
        for bin in range(-1, bins):
            after = (bin + 1) % 2
            if bin + 1 < bins:
                p, q, count = (bin + 1) // size, (bin + 1) % size, 0
                for i in range(row_taps[p]):
                    line = (images[k] * height + rows[p, i]) * width
                    for j in range(column_taps[q]):
                        starts[after, count] = (line + columns[q, j]) * channels + (bin + 1) * outputs
                        weights[after, count] = row_weights[p, i] * column_weights[q, j]
                        prefetch(values, starts[after, count], outputs)
                        count += 1
                taps[after] = count
            if bin >= 0:
                now = bin % 2
                first = (members[k] * bins + bin) * outputs
                weighted_sum(values, starts[now], weights[now], taps[now], outputs, sums, first)


@kernel()
def _backward(
    total: np.ndarray,  # [H, W, k²·D], added to in bins first … last - 1: one image's gradient map
    first: int,
    last: int,
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs of this image
    scale: np.float32,
    size: int,
    rule: int,
    sampling_ratio: int,
    grad: np.ndarray,  # [R, k², D]
) -> None:
    height, width, _ = total.shape
    outputs = grad.shape[2]
    ratio = sampling_ratio if rule == ALIGN else 0
    rows, row_weights, row_taps = _room(size, ratio, height)
    columns, column_weights, column_taps = _room(size, ratio, width)
    for roi in members:
        x1, y1, x2, y2 = boxes[roi]
        _bin_taps(y1, y2, scale, height, rule, ratio, rows, row_weights, row_taps)
        _bin_taps(x1, x2, scale, width, rule, ratio, columns, column_weights, column_taps)
        for bin in range(first, last):
            p, q = bin // size, bin % size
            given = grad[roi, bin]
            for i in range(row_taps[p]):
                for j in range(column_taps[q]):
                    pixel = total[rows[p, i], columns[q, j], bin * outputs : (bin + 1) * outputs]
                    _add_scaled(row_weights[p, i] * column_weights[q, j], given, pixel)


@kernel()
def _bin_taps(
    start: np.float32,
    end: np.float32,
    scale: np.float32,
    extent: int,
    rule: int,
    sampling_ratio: int,
    pixels: np.ndarray,  # [k, T], filled
    weights: np.ndarray,  # [k, T], filled
    taps: np.ndarray,  # [k], filled
) -> None:
    """Which pixels each bin reads along one axis, and with which weight."""
    if rule == ALIGN:
        _axis_taps(start * scale, end * scale, extent, sampling_ratio, True, pixels, weights, taps)
        return
    one, size = np.float32(1), len(taps)
    if rule == CAFFE:
        begin, last = _round(start) * scale, extent
        width = max((_round(end) + one) * scale - begin, np.float32(0.1)) / np.float32(size)
    else:
        begin, last = _round(start * scale), extent - 1
        width = max(_round(end * scale) - begin, one) / np.float32(size)
    most = np.float32(last)
    for p in range(size):
        if rule == CAFFE:
            low, high = np.floor(np.float32(p) * width + begin), np.ceil(np.float32(p + 1) * width + begin)
        else:
            low, high = np.floor(np.float32(p) * width) + begin, np.ceil(np.float32(p + 1) * width) + begin
        first = int(min(max(low, np.float32(0)), most))
        taps[p] = max(int(min(max(high, np.float32(0)), most)) - first, 0)
        for t in range(taps[p]):
            pixels[p, t], weights[p, t] = first + t, one / np.float32(taps[p])
