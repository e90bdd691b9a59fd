"""RoI max pooling on the CPU: the pixels of each bin one after the other, the inner loop over channels, which lie side
by side in channels-last maps and vectorise.

Bin edges are computed in float32, as the released code does: in float64 one in twenty bins would end elsewhere.
Letters: B images, N RoIs, R = B·N, C channels, P pooled side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.roi_align import by_level, channel_spans, computing, pixels_first
from rcnn.kernels.cpu.threads import kernel, run, spans
from rcnn.kernels.cpu.transpose import transpose


def roi_pool(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_pool`."""
    maps = [pixels_first(feature) for feature in features]
    rois, channels = levels.numel(), features[0].shape[1]
    pooled = torch.empty((rois, channels, size * size), dtype=computing(features[0].dtype))
    out, corners = pooled.numpy(), boxes.reshape(-1, 4).contiguous().numpy()
    tasks = []
    for level, members in by_level(levels, len(maps), corners[:, 1]):
        if level < 0:
            out[members] = 0
            continue
        scale, images = np.float32(1 / strides[level]), members // levels.shape[1]
        for first, last in spans(len(members), least=8):
            part = slice(first, last)
            tasks.append((_forward, maps[level], images[part], corners, members[part], scale, size, out))
    run(tasks)
    return pooled.view(*levels.shape, channels, size, size).to(features[0].dtype)


def roi_pool_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    images, proposals, channels, size, _ = grad.shape
    maps = [pixels_first(feature) for feature in features]
    totals = [torch.zeros(m.shape, dtype=computing(grad.dtype)) for m in maps]
    given = grad.to(computing(grad.dtype)).contiguous().view(-1, channels, size * size).numpy()
    corners = boxes.reshape(-1, 4).contiguous().numpy()
    tasks = []
    for level, members in by_level(levels, len(maps), corners[:, 1]):
        if level < 0:
            continue
        scale = np.float32(1 / strides[level])
        for image in range(images):
            own = members[members // proposals == image]
            for first, last in channel_spans(channels, images):
                arguments = (maps[level][image], totals[level][image].numpy(), first, last, corners, own, scale, size)
                tasks.append((_backward, *arguments, given))
    run(tasks)
    return [t.permute(0, 3, 1, 2).to(grad.dtype) for t in totals]


@kernel()
def _forward(
    feature: np.ndarray,  # [B, H, W, C]
    images: np.ndarray,  # [n], which image each RoI is in
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs to pool
    scale: np.float32,
    size: int,
    pooled: np.ndarray,  # [R, C, P·P], filled at the members
) -> None:
    _, height, width, channels = feature.shape
    tile = np.empty((size * size, channels + 16), feature.dtype)  # 16 more, so that its rows differ in cache set
    tops, bottoms = np.empty((2, size), np.int64)
    lefts, rights = np.empty((2, size), np.int64)
    for k in range(len(members)):
        x1, y1, x2, y2 = boxes[members[k]] * scale
        _edges(y1, y2, height, tops, bottoms)
        _edges(x1, x2, width, lefts, rights)
        for p in range(size):
            for q in range(size):
                highest = tile[p * size + q, :channels]
                highest[:] = -np.inf if tops[p] < bottoms[p] and lefts[q] < rights[q] else 0
                for y in range(tops[p], bottoms[p]):
                    for x in range(lefts[q], rights[q]):
                        values = feature[images[k], y, x]
                        for c in range(channels):
                            highest[c] = values[c] if values[c] > highest[c] else highest[c]
        transpose(tile, size * size, channels, pooled[members[k]])


@kernel()
def _backward(
    feature: np.ndarray,  # [H, W, C]: one image's map
    total: np.ndarray,  # [H, W, C], added to in channels first … last - 1: its gradient
    first: int,
    last: int,
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs of this image and level
    scale: np.float32,
    size: int,
    grad: np.ndarray,  # [R, C, P·P]
) -> None:
    height, width, _ = feature.shape
    channels = last - first
    tile = np.empty((size * size, channels + 16), feature.dtype)
    highest, where = np.empty(channels, feature.dtype), np.empty(channels, np.int32)
    tops, bottoms = np.empty((2, size), np.int64)
    lefts, rights = np.empty((2, size), np.int64)
    for roi in members:
        x1, y1, x2, y2 = boxes[roi] * scale
        _edges(y1, y2, height, tops, bottoms)
        _edges(x1, x2, width, lefts, rights)
        transpose(grad[roi, first:last], channels, size * size, tile)
        for p in range(size):
            for q in range(size):
                highest[:] = -np.inf
                where[:] = -1
                for y in range(tops[p], bottoms[p]):
                    for x in range(lefts[q], rights[q]):
                        _take_higher(feature[y, x, first:last], np.int32(y * width + x), highest, where)
                given = tile[p * size + q, :channels]
                for y in range(tops[p], bottoms[p]):
                    for x in range(lefts[q], rights[q]):
                        _add_where(where, np.int32(y * width + x), given, total[y, x, first:last])


@kernel()
def _edges(start: np.float32, end: np.float32, extent: int, first: np.ndarray, last: np.ndarray) -> None:
    """The pixels first [P] … last [P] - 1 of each bin along one axis, inside the map."""
    begin = _round(start)
    size = len(first)
    width = max(_round(end) - begin + np.float32(1), np.float32(1)) / np.float32(size)
    most = np.float32(extent)
    for p in range(size):
        low = begin + np.floor(np.float32(p) * width)
        high = begin + np.ceil(np.float32(p + 1) * width)
        first[p] = int(min(max(low, np.float32(0)), most))
        last[p] = int(min(max(high, np.float32(0)), most))


@kernel()
def _round(x: np.float32) -> np.float32:
    """The nearest whole number, half away from zero."""
    whole = np.trunc(x)
    return whole + np.sign(x) if abs(x - whole) >= np.float32(0.5) else whole


@kernel()
def _take_higher(values: np.ndarray, pixel: np.int32, highest: np.ndarray, where: np.ndarray) -> None:
    """Keeps in highest [C] the higher of itself and values [C], and in where [C] the pixel it came from."""
    for c in range(len(values)):
        higher = values[c] > highest[c]
        highest[c] = values[c] if higher else highest[c]
        where[c] = pixel if higher else where[c]


@kernel()
def _add_where(where: np.ndarray, pixel: np.int32, values: np.ndarray, total: np.ndarray) -> None:
    """total [C] += values [C] in the channels whose maximum came from this pixel, by where [C]."""
    for c in range(len(total)):
        if where[c] == pixel:
            total[c] += values[c]
