"""RoIAlign as two matrix products: bilinear sampling and averaging are linear, and separate along the axes.

A RoI's pooled features are `Y F Xᵀ`: F [C, H, W] is the map, Y [P, H] and X [P, W] hold the mean weight with which
each bin reads each row and column. The gradient with respect to the map is then `Yᵀ G X`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def axis_weights(start: Tensor, end: Tensor, extent: int, size: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """Weights [P, extent] of the pixels along one axis for the P = `size` bins of a RoI, `start` and `end` in pixels.

    Float32, as the number of adaptive samples and the edge of the map are decided by it.
    """
    if aligned:
        start, end = start - 0.5, end - 0.5
    length = end - start if aligned else (end - start).clamp(min=1)
    width = length / size  # of one bin
    samples = sampling_ratio if sampling_ratio > 0 else max(0, math.ceil(float(width)))
    steps = (torch.arange(samples, dtype=width.dtype, device=width.device) + 0.5) / max(1, samples)
    bins = torch.arange(size, dtype=width.dtype, device=width.device)
    position = start + (bins[:, None] + steps) * width  # [P, samples]
    inside = (position >= -1) & (position <= extent)
    # Bilinear interpolation is a hat function; within a pixel of the border it reads the border.
    pixels = torch.arange(extent, dtype=width.dtype, device=width.device)
    hat = 1 - (position.clamp(0, extent - 1)[..., None] - pixels).abs()  # [P, samples, extent]
    return (hat.clamp(min=0) * inside[..., None]).sum(1) / max(1, samples)


def rois_on_maps(levels: Tensor, maps: int) -> Iterator[tuple[int, int, int]]:
    """The image, number and level of each RoI of levels [B, N] that lies on a map."""
    for b, row in enumerate(levels.tolist()):
        for n, level in enumerate(row):
            if 0 <= level < maps:
                yield b, n, level


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
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    pooled = features[0].new_zeros((*levels.shape, features[0].shape[1], size, size))
    for b, n, level in rois_on_maps(levels, len(features)):
        feature = features[level][b].to(dtype)  # [C, H, W]
        x1, y1, x2, y2 = boxes[b, n] * (1.0 / strides[level])
        rows = axis_weights(y1, y2, feature.shape[1], size, sampling_ratio, aligned).to(dtype)
        columns = axis_weights(x1, x2, feature.shape[2], size, sampling_ratio, aligned).to(dtype)
        pooled[b, n] = (rows @ feature @ columns.T).to(pooled.dtype)
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
    dtype = torch.promote_types(grad.dtype, torch.float32)
    images, _, channels, size, _ = grad.shape
    maps = [grad.new_zeros((images, channels, h, w), dtype=dtype) for h, w in zip(heights, widths, strict=True)]
    for b, n, level in rois_on_maps(levels, len(maps)):
        x1, y1, x2, y2 = boxes[b, n] * (1.0 / strides[level])
        rows = axis_weights(y1, y2, heights[level], size, sampling_ratio, aligned).to(dtype)
        columns = axis_weights(x1, x2, widths[level], size, sampling_ratio, aligned).to(dtype)
        maps[level][b] += rows.T @ grad[b, n].to(dtype) @ columns
    return [m.to(grad.dtype, memory_format=torch.channels_last) for m in maps]
