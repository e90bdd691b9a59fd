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


def roi_pool(
    features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int
) -> tuple[Tensor, Tensor]:
    """Pooled features [B, N, C, P, P] and chosen pixels [B, N, P·P, C]; see `rcnn.kernels.roi_pool`."""
    maps = [pixels_first(feature) for feature in features]
    rois, channels = levels.numel(), features[0].shape[1]
    pooled = torch.empty((rois, channels, size * size), dtype=computing(features[0].dtype))
    chosen = torch.empty((rois, size * size, channels), dtype=torch.int32)
    corners = boxes.reshape(-1, 4).contiguous().numpy()
    tasks = []
    for level, members in by_level(levels, len(maps)):
        if level < 0:
            pooled.numpy()[members], chosen.numpy()[members] = 0, -1
            continue
        scale, images = np.float32(1 / strides[level]), members // levels.shape[1]
        for first, last in spans(len(members), least=8):
            part = slice(first, last)
            outputs = (pooled.numpy(), chosen.numpy())
            tasks.append((_forward, maps[level], images[part], corners, members[part], scale, size, *outputs))
    run(tasks)
    pooled = pooled.view(*levels.shape, channels, size, size).to(features[0].dtype)
    return pooled, chosen.view(*levels.shape, size * size, channels)


def roi_pool_backward(
    grad: Tensor, chosen: Tensor, levels: Tensor, heights: list[int], widths: list[int]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    images, proposals, channels, size, _ = grad.shape
    dtype = computing(grad.dtype)
    maps = [torch.zeros((images, h, w, channels), dtype=dtype) for h, w in zip(heights, widths, strict=True)]
    given = grad.to(dtype).contiguous().view(-1, channels, size * size).numpy()
    pixels = chosen.contiguous().view(-1, size * size, channels).numpy()
    tasks = []
    for level, members in by_level(levels, len(maps)):
        if level < 0:
            continue
        for image in range(images):
            own = members[members // proposals == image]
            for first, last in channel_spans(channels):
                total = maps[level][image].numpy().reshape(-1, channels)[:, first:last]
                tasks.append((_backward, total, own, pixels[..., first:last], given[:, first:last]))
    run(tasks)
    return [m.permute(0, 3, 1, 2).to(grad.dtype) for m in maps]


@kernel()
def _forward(
    feature: np.ndarray,  # [B, H, W, C]
    images: np.ndarray,  # [n], which image each RoI is in
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs to pool
    scale: np.float32,
    size: int,
    pooled: np.ndarray,  # [R, C, P·P], filled at the members
    chosen: np.ndarray,  # [R, P·P, C], filled at the members
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
                highest, where = tile[p * size + q, :channels], chosen[members[k], p * size + q]
                where[:] = -1
                highest[:] = -np.inf
                if tops[p] >= bottoms[p] or lefts[q] >= rights[q]:
                    highest[:] = 0
                for y in range(tops[p], bottoms[p]):
                    for x in range(lefts[q], rights[q]):
                        _take_higher(feature[images[k], y, x], np.int32(y * width + x), highest, where)
        for c in range(channels):
            for bin in range(size * size):
                pooled[members[k], c, bin] = tile[bin, c]


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
def _backward(
    total: np.ndarray,  # [H·W, c], added to: some channels of one image's gradient map
    members: np.ndarray,  # [n], the RoIs of this image and level
    chosen: np.ndarray,  # [R, P·P, c]
    grad: np.ndarray,  # [R, c, P·P]
) -> None:
    for roi in members:
        for bin in range(chosen.shape[1]):
            for c in range(chosen.shape[2]):
                pixel = chosen[roi, bin, c]
                if pixel >= 0:
                    total[pixel, c] += grad[roi, c, bin]
