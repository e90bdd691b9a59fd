"""RoI warping on the CPU: four pixels a sample, the inner loops over channels, which lie side by side and vectorise.

As in RoIAlign's backward pass each thread adds to channels of its own. A RoI's corners get their gradient from the
products of the given gradient with those four pixels. Letters: B images, N RoIs, R = B·N, C channels, S samples a side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.roi_align import _add_scaled, by_level, channel_spans, computing, pixels_first
from rcnn.kernels.cpu.threads import kernel, run, spans


def roi_warp(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Samples [B, N, C, S, S] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_warp`."""
    maps, corners = [pixels_first(feature) for feature in features], _corners(boxes)
    channels = features[0].shape[1]
    warped = torch.empty((levels.numel(), size, size, channels), dtype=computing(features[0].dtype))
    out, tasks = warped.numpy(), []
    for level, members in by_level(levels, len(maps), corners[:, 1]):
        if level < 0:
            out[members] = 0
            continue
        images = members // levels.shape[1]
        for first, last in spans(len(members), least=8):
            part = slice(first, last)
            tasks.append((_forward, maps[level], images[part], corners, members[part], 1 / strides[level], out))
    run(tasks)
    return warped.to(features[0].dtype).permute(0, 3, 1, 2).unflatten(0, levels.shape)


def roi_warp_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> tuple[list[Tensor], Tensor]:
    """Gradients of maps [B, C, H, W], channels-last, and of boxes [B, N, 4], for that of `roi_warp` [B, N, C, S, S]."""
    dtype = computing(grad.dtype)
    maps, corners = [pixels_first(feature) for feature in features], _corners(boxes)
    totals = [np.zeros_like(m) for m in maps]
    to_corners = np.zeros_like(corners)
    given = grad.to(dtype).flatten(0, 1).permute(0, 2, 3, 1).contiguous().numpy()  # [R, S, S, C]
    tasks: list[tuple[Any, ...]] = []
    for level, members in by_level(levels, len(maps), corners[:, 1]):
        if level < 0:
            continue
        scale, images = 1 / strides[level], members // levels.shape[1]
        for first, last in spans(len(members), least=8):
            part = slice(first, last)
            tasks.append((_to_corners, maps[level], images[part], corners, members[part], scale, given, to_corners))
        for image in range(len(boxes)):
            own = members[images == image]
            for first, last in channel_spans(given.shape[-1], len(boxes)):
                tasks.append((_to_map, totals[level][image], first, last, corners, own, scale, given))
    run(tasks)
    by_map = [torch.from_numpy(total).permute(0, 3, 1, 2).to(grad.dtype) for total in totals]
    return by_map, torch.from_numpy(to_corners).view(boxes.shape).to(boxes.dtype)


def _corners(boxes: Tensor) -> np.ndarray:
    """Boxes [B, N, 4] as an array [R, 4] of float64: a position costs little beside its channels."""
    return boxes.detach().reshape(-1, 4).double().contiguous().numpy()


@kernel()
def _forward(
    feature: np.ndarray,  # [B, H, W, C]
    images: np.ndarray,  # [n], which image each RoI is in
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs to warp
    scale: float,
    warped: np.ndarray,  # [R, S, S, C], filled at the members
) -> None:
    _, height, width, _ = feature.shape
    rows, columns, weights = _room(warped.shape[1]), _room(warped.shape[1]), np.empty(4, feature.dtype)
    for k in range(len(members)):
        x1, y1, x2, y2 = boxes[members[k]]
        _place(y1, y2, height, scale, *rows)
        _place(x1, x2, width, scale, *columns)
        for p in range(warped.shape[1]):
            y, below = rows[0][p], min(rows[0][p] + 1, height - 1)
            for q in range(warped.shape[1]):
                x, right = columns[0][q], min(columns[0][q] + 1, width - 1)
                _weigh(rows[1][p], columns[1][q], weights)
                image = feature[images[k]]
                _blend(
                    weights,
                    image[y, x],
                    image[y, right],
                    image[below, x],
                    image[below, right],
                    warped[members[k], p, q],
                )


@kernel()
def _to_map(
    total: np.ndarray,  # [H, W, C], added to in channels first … last - 1: one image's gradient map
    first: int,
    last: int,
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n], the RoIs of this image and level
    scale: float,
    grad: np.ndarray,  # [R, S, S, C]
) -> None:
    height, width, _ = total.shape
    rows, columns, weights = _room(grad.shape[1]), _room(grad.shape[1]), np.empty(4, total.dtype)
    for roi in members:
        x1, y1, x2, y2 = boxes[roi]
        _place(y1, y2, height, scale, *rows)
        _place(x1, x2, width, scale, *columns)
        for p in range(grad.shape[1]):
            y, below = rows[0][p], min(rows[0][p] + 1, height - 1)
            for q in range(grad.shape[1]):
                x, right = columns[0][q], min(columns[0][q] + 1, width - 1)
                _weigh(rows[1][p], columns[1][q], weights)
                given = grad[roi, p, q, first:last]
                _add_scaled(weights[0], given, total[y, x, first:last])
                _add_scaled(weights[1], given, total[y, right, first:last])
                _add_scaled(weights[2], given, total[below, x, first:last])
                _add_scaled(weights[3], given, total[below, right, first:last])


@kernel()
def _to_corners(
    feature: np.ndarray,  # [B, H, W, C]
    images: np.ndarray,  # [n]
    boxes: np.ndarray,  # [R, 4]
    members: np.ndarray,  # [n]
    scale: float,
    grad: np.ndarray,  # [R, S, S, C]
    total: np.ndarray,  # [R, 4], added to at the members
) -> None:
    _, height, width, _ = feature.shape
    size = grad.shape[1]
    rows, columns = _room(size), _room(size)
    for k in range(len(members)):
        roi = members[k]
        image = feature[images[k]]
        x1, y1, x2, y2 = boxes[roi]
        _place(y1, y2, height, scale, *rows)
        _place(x1, x2, width, scale, *columns)
        for p in range(size):
            y, below, down = rows[0][p], min(rows[0][p] + 1, height - 1), rows[1][p]
            for q in range(size):
                x, right, across = columns[0][q], min(columns[0][q] + 1, width - 1), columns[1][q]
                given = grad[roi, p, q]
                a, b = _dot(given, image[y, x]), _dot(given, image[y, right])
                c, d = _dot(given, image[below, x]), _dot(given, image[below, right])
                to_x = ((b - a) * (1 - down) + (d - c) * down) * columns[2][q]
                to_y = ((c - a) * (1 - across) + (d - b) * across) * rows[2][p]
                x_share, y_share = (q + 0.5) / size, (p + 0.5) / size
                total[roi, 0] += to_x * (1 - x_share)
                total[roi, 1] += to_y * (1 - y_share)
                total[roi, 2] += to_x * x_share
                total[roi, 3] += to_y * y_share


@kernel()
def _room(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for what `_place` finds of each of S samples."""
    return np.empty(size, np.int64), np.empty(size), np.empty(size)


@kernel()
def _place(
    start: float,
    end: float,
    extent: int,
    scale: float,
    pixels: np.ndarray,  # [S], filled: the pixel at or before each sample
    parts: np.ndarray,  # [S], filled: how far it lies towards the next, 0 … 1
    moves: np.ndarray,  # [S], filled: pixels that it moves by where it moves by one of the input
) -> None:
    """Where the samples of a RoI lie along one axis of a map; one outside stays at the edge."""
    size = len(pixels)
    for s in range(size):
        position = (start + (end - start) * (s + 0.5) / size) * scale - 0.5
        moves[s] = scale
        if not position > 0:  # not a number, too
            position, moves[s] = 0.0, 0.0
        elif position > extent - 1:
            position, moves[s] = float(extent - 1), 0.0
        pixels[s] = min(int(position), max(extent - 2, 0))
        parts[s] = position - pixels[s]


@kernel()
def _weigh(down: float, across: float, weights: np.ndarray) -> None:
    """Bilinear weights [4] of the pixels above left, above right, below left, below right."""
    weights[0] = (1 - down) * (1 - across)
    weights[1] = (1 - down) * across
    weights[2] = down * (1 - across)
    weights[3] = down * across


@kernel(fastmath={"contract"})
def _blend(weights: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, out: np.ndarray) -> None:
    """out [C] = the weighted sum of four pixels [C]."""
    wa, wb, wc, wd = weights[0], weights[1], weights[2], weights[3]
    for i in range(len(out)):
        out[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i]


@kernel(fastmath={"contract", "reassoc"})
def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products of two vectors [C], in whichever order is quick."""
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
