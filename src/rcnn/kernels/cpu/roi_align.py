"""RoIAlign on the CPU. The mean of bilinear samples separates along the axes, so a RoI is first reduced to the few
rows and columns that each bin reads, with their weights; the inner loop then runs over channels, which lie side by
side in channels-last maps and vectorise.

The backward pass gives each thread channels of its own, so that no two threads add to one place: its result does not
depend on the number of threads. Letters: B images, N RoIs, R = B·N, C channels, P pooled side, T taps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.threads import kernel, run, spans, threads


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
            arguments = (maps[level], images[part], corners, members[part], scale, size, sampling_ratio, aligned, out)
            tasks.append((_forward, *arguments))
    run(tasks)
    return pooled.view(*levels.shape, channels, size, size).to(features[0].dtype)


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
    images, proposals, channels, size, _ = grad.shape
    dtype = computing(grad.dtype)
    maps = [torch.zeros((images, h, w, channels), dtype=dtype) for h, w in zip(heights, widths, strict=True)]
    given = grad.to(dtype).contiguous().view(-1, channels, size * size).numpy()
    corners = boxes.reshape(-1, 4).contiguous().numpy()
    tasks = []
    for level, members in by_level(levels, len(maps), corners[:, 1]):
        if level < 0:
            continue
        scale = np.float32(1 / strides[level])
        for image in range(images):
            own = members[members // proposals == image]
            for first, last in channel_spans(channels, images):
                part = (maps[level][image].numpy(), first, last)
                tasks.append((_backward, *part, corners, own, scale, size, sampling_ratio, aligned, given))
    run(tasks)
    return [m.permute(0, 3, 1, 2).to(grad.dtype) for m in maps]


def computing(dtype: torch.dtype) -> torch.dtype:
    """The type in which features of a type are computed: float32 for the half types."""
    return torch.promote_types(dtype, torch.float32)


def pixels_first(feature: Tensor) -> np.ndarray:
    """The map [B, C, H, W] as an array [B, H, W, C]; no copy where it is float32 and channels-last."""
    return feature.detach().to(computing(feature.dtype)).permute(0, 2, 3, 1).contiguous().numpy()


def by_level(levels: Tensor, maps: int, tops: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each level of levels [B, N] and the numbers of its RoIs, `downwards`; -1 stands for those on no map."""
    flat = levels.reshape(-1).numpy()
    flat = np.where(flat < maps, flat, -1)
    for level in range(-1, maps):
        members = np.flatnonzero(flat == level)
        if len(members):
            yield level, downwards(members, levels.shape[1], tops)


def downwards(members: np.ndarray, proposals: int, tops: np.ndarray) -> np.ndarray:
    """Some of the RoIs [B, N], by image and from its top to its bottom, by their `tops` [B·N]: neighbours find their
    pixels cached.
    """
    return members[np.lexsort((tops[members], members // proposals))]


def channel_spans(channels: int, images: int) -> list[tuple[int, int]]:
    """Cuts the channels into ranges of at least 16, a cache line of float32: as few as give each thread some work."""
    parts = max(1, min(-(-threads() // images), channels // 16))
    return [(channels * part // parts, channels * (part + 1) // parts) for part in range(parts)]


@kernel()
def _forward(
    feature: np.ndarray,  # [B, H, W, C]
    images: np.ndarray,  # [n], which image each RoI is in
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs to pool
    scale: np.float32,
    size: int,
    sampling_ratio: int,
    aligned: bool,
    pooled: np.ndarray,  # [R, C, P·P], filled at the members
) -> None:
    _, height, width, channels = feature.shape
    rows, row_weights, row_taps = _room(size, sampling_ratio, height)
    columns, column_weights, column_taps = _room(size, sampling_ratio, width)
    tile = np.empty((size * size, channels + 16), feature.dtype)  # 16 more, so that its rows differ in cache set
    for k in range(len(members)):
        x1, y1, x2, y2 = boxes[members[k]] * scale
        _axis_taps(y1, y2, height, sampling_ratio, aligned, rows, row_weights, row_taps)
        _axis_taps(x1, x2, width, sampling_ratio, aligned, columns, column_weights, column_taps)
        for p in range(size):
            for q in range(size):
                total = tile[p * size + q, :channels]
                total[:] = 0
                for i in range(row_taps[p]):
                    for j in range(column_taps[q]):
                        pixel = feature[images[k], rows[p, i], columns[q, j]]
                        _add_scaled(row_weights[p, i] * column_weights[q, j], pixel, total)
        for c in range(channels):
            for bin in range(size * size):
                pooled[members[k], c, bin] = tile[bin, c]


@kernel()
def _backward(
    total: np.ndarray,  # [H, W, C], added to in channels first … last - 1: one image's gradient map
    first: int,
    last: int,
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs of this image and level
    scale: np.float32,
    size: int,
    sampling_ratio: int,
    aligned: bool,
    grad: np.ndarray,  # [R, C, P·P]
) -> None:
    height, width, _ = total.shape
    rows, row_weights, row_taps = _room(size, sampling_ratio, height)
    columns, column_weights, column_taps = _room(size, sampling_ratio, width)
    tile = np.empty((size * size, last - first + 16), total.dtype)
    for roi in members:
        x1, y1, x2, y2 = boxes[roi] * scale
        _axis_taps(y1, y2, height, sampling_ratio, aligned, rows, row_weights, row_taps)
        _axis_taps(x1, x2, width, sampling_ratio, aligned, columns, column_weights, column_taps)
        for c in range(last - first):
            for bin in range(size * size):
                tile[bin, c] = grad[roi, first + c, bin]
        for p in range(size):
            for q in range(size):
                given = tile[p * size + q, : last - first]
                for i in range(row_taps[p]):
                    for j in range(column_taps[q]):
                        pixel = total[rows[p, i], columns[q, j], first:last]
                        _add_scaled(row_weights[p, i] * column_weights[q, j], given, pixel)


@kernel()
def _room(size: int, sampling_ratio: int, extent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for the taps of P bins: pixels [P, T], weights [P, T] and their number [P].

    Adaptive samples are at most a pixel apart, so their pixels merge into at most `extent`.
    """
    most = 2 * sampling_ratio if sampling_ratio > 0 else extent + 2
    return np.empty((size, most), np.int64), np.empty((size, most), np.float32), np.empty(size, np.int64)


@kernel()
def _axis_taps(
    start: np.float32,
    end: np.float32,
    extent: int,
    sampling_ratio: int,
    aligned: bool,
    pixels: np.ndarray,  # [P, T], filled
    weights: np.ndarray,  # [P, T], filled
    taps: np.ndarray,  # [P], filled
) -> None:
    """Which pixels each bin reads along one axis, and with which mean weight; all positions in float32."""
    one, half = np.float32(1), np.float32(0.5)
    if aligned:
        start, end = start - half, end - half
    length = end - start if aligned else max(end - start, one)
    size = len(taps)
    width = length / np.float32(size)  # of one bin
    taps[:] = 0
    if not abs(length) < np.float32(1e9):  # not a number, or nothing that a map could hold
        return
    samples = sampling_ratio if sampling_ratio > 0 else int(np.ceil(width))
    for p in range(size):
        low, high = 0, samples
        if sampling_ratio == 0:  # of a vast box only the samples about the map
            step = width / samples
            low = max(0, int((-1 - start - p * width) / step) - 2)
            high = min(samples, int((extent - start - p * width) / step) + 2)
        for s in range(low, high):
            position = start + np.float32(p) * width + (np.float32(s) + half) * width / np.float32(samples)
            if not (position >= -one and position <= np.float32(extent)):
                continue
            position = max(position, np.float32(0))
            pixel = min(int(position), extent - 1)
            share = min(position - np.float32(pixel), one) if pixel < extent - 1 else np.float32(0)
            taps[p] = _add_tap(pixel, (one - share) / np.float32(samples), pixels[p], weights[p], taps[p])
            if share > 0:
                taps[p] = _add_tap(pixel + 1, share / np.float32(samples), pixels[p], weights[p], taps[p])


@kernel()
def _add_tap(pixel: int, weight: np.float32, pixels: np.ndarray, weights: np.ndarray, taps: int) -> int:
    """Adds to the weight of one of the last two taps if it is of this pixel, else appends a tap; the new number."""
    for t in range(max(0, taps - 2), taps):
        if pixels[t] == pixel:
            weights[t] += weight
            return taps
    pixels[taps], weights[taps] = pixel, weight
    return taps + 1


@kernel(fastmath={"contract"})
def _add_scaled(weight: np.float32, values: np.ndarray, total: np.ndarray) -> None:
    """total [C] += weight · values [C], fused."""
    for c in range(len(total)):
        total[c] += weight * values[c]
