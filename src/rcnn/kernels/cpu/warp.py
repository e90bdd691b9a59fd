"""Warping on the CPU: rows of the image are resampled along x once, and pairs of them mixed along y.

A region smaller than its crop has fewer rows than the crop, and the second step runs over values side by side, which
vectorises. Letters: R regions, H W height and width of the image, S side of a crop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.threads import kernel, run, spans


def warp(pixels: Tensor, windows: Tensor, visible: Tensor, fill: Tensor, size: int) -> Tensor:
    """Crops [R, 3, S, S] of windows [R, 4] of an image [3, H, W]; see `rcnn.kernels.warp`."""
    crops = torch.empty((len(windows), size, size, 3), dtype=torch.uint8)
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    arguments = (windows.contiguous().numpy(), visible.contiguous().numpy(), fill.contiguous().numpy(), crops.numpy())
    run([(_warp, image, *arguments, first, last) for first, last in spans(len(windows), least=8)])
    return crops.permute(0, 3, 1, 2)


@kernel()
def _warp(
    image: np.ndarray,  # [H, W, 3]
    windows: np.ndarray,  # [R, 4]
    visible: np.ndarray,  # [R, 4]
    fill: np.ndarray,  # [R, 3]
    crops: np.ndarray,  # [R, S, S, 3], filled from `first` to `last` - 1
    first: int,
    last: int,
) -> None:
    height, width, _ = image.shape
    size = crops.shape[1]
    near_x, far_x = np.empty((2, size), np.int64)
    near_y, far_y = np.empty((2, size), np.int64)
    weight_x, weight_y = np.empty((2, size), np.float32)
    rows, row_of = np.empty((2, 3 * size), np.float32), np.empty(2, np.int64)
    for r in range(first, last):
        x1, y1, x2, y2 = windows[r]
        _taps(x1, x2, visible[r, 0], visible[r, 2], width, near_x, far_x, weight_x)
        _taps(y1, y2, visible[r, 1], visible[r, 3], height, near_y, far_y, weight_y)
        row_of[:] = -1
        for v in range(size):
            out = crops[r, v]
            if near_y[v] < 0:
                out[:] = fill[r]
                continue
            for y in (near_y[v], far_y[v]):
                if row_of[y % 2] != y:  # neighbours differ in parity, so both of a pair stay
                    row_of[y % 2] = y
                    _resample(image[y], near_x, far_x, weight_x, rows[y % 2])
            _mix(rows[near_y[v] % 2], rows[far_y[v] % 2], weight_y[v], out.reshape(3 * size))
            for u in range(size):
                if near_x[u] < 0:
                    out[u] = fill[r]


@kernel()
def _taps(
    start: np.float32,
    end: np.float32,
    low: np.float32,
    high: np.float32,
    extent: int,
    near: np.ndarray,
    far: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Along one axis, the two pixels [S] around each centre and the farther one's weight; −1 where none is shown."""
    size = len(near)
    for i in range(size):
        centre = start + np.float32((i + 0.5) / size) * (end - start)
        near[i] = far[i] = -1
        weight[i] = 0
        if low <= centre < high:
            index = min(max(centre - np.float32(0.5), np.float32(0)), np.float32(extent - 1))
            near[i] = int(index)
            far[i] = min(near[i] + 1, extent - 1)
            weight[i] = index - np.float32(near[i])


@kernel()
def _resample(row: np.ndarray, near: np.ndarray, far: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """One row [W, 3] of the image at the centres of the crop's columns: [3·S]."""
    for u in range(len(near)):
        a, b = max(near[u], 0), max(far[u], 0)
        for c in range(3):
            value = np.float32(row[a, c])
            out[3 * u + c] = value + (np.float32(row[b, c]) - value) * weight[u]


@kernel()
def _mix(near: np.ndarray, far: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    """Two resampled rows [3·S] weighted into a row of the crop, rounded."""
    for i in range(len(out)):
        out[i] = np.uint8(near[i] + (far[i] - near[i]) * weight + np.float32(0.5))
