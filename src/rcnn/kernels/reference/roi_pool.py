"""RoI max pooling in plain torch: a maximum over columns, then over rows, of each bin of one RoI after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.kernels.reference.roi_align import rois_on_maps


def axis_bins(start: Tensor, end: Tensor, extent: int, size: int) -> Tensor:
    """Which pixels along one axis each of P = `size` bins holds, [P, extent] bool; `start`, `end` in pixels."""
    first, last = _round(start), _round(end)
    width = (last - first + 1).clamp(min=1) / size
    bins = torch.arange(size, dtype=width.dtype, device=width.device)[:, None]
    pixels = torch.arange(extent, dtype=width.dtype, device=width.device)
    return (pixels >= first + (bins * width).floor()) & (pixels < first + ((bins + 1) * width).ceil())


def _round(x: Tensor) -> Tensor:
    """The nearest whole number, half away from zero (torch.round goes to the even one)."""
    return x.trunc() + torch.where((x - x.trunc()).abs() >= 0.5, x.sign(), 0)


def _maxima(feature: Tensor, box: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maxima [C, P, P] of the bins of a box [4] in a map [C, H, W], and their pixels y·W + x; -1 for an empty bin."""
    x1, y1, x2, y2 = box
    rows = axis_bins(y1, y2, feature.shape[1], size)  # [P, H]
    columns = axis_bins(x1, x2, feature.shape[2], size)  # [P, W]
    value, x = feature[:, :, None].masked_fill(~columns, -torch.inf).max(-1)  # [C, H, P]
    value, y = value[:, None].masked_fill(~rows[..., None], -torch.inf).max(2)  # [C, P, P]
    pixel = y * feature.shape[2] + x.gather(1, y)
    filled = rows.any(1)[:, None] & columns.any(1)  # [P, P]
    return torch.where(filled, value, 0), torch.where(filled, pixel, -1)


def roi_pool(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_pool`."""
    pooled = features[0].new_zeros((*levels.shape, features[0].shape[1], size, size))
    for b, n, level in rois_on_maps(levels, len(features)):
        pooled[b, n] = _maxima(features[level][b], boxes[b, n] * (1.0 / strides[level]), size)[0]
    return pooled


def roi_pool_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    dtype = torch.promote_types(grad.dtype, torch.float32)
    maps = [f.new_zeros(f.shape, dtype=dtype) for f in features]
    for b, n, level in rois_on_maps(levels, len(features)):
        pixel = _maxima(features[level][b], boxes[b, n] * (1.0 / strides[level]), grad.shape[-1])[1].flatten(1)
        given = torch.where(pixel >= 0, grad[b, n].flatten(1).to(dtype), 0)
        maps[level][b].flatten(1).scatter_add_(1, pixel.clamp(min=0), given)
    return [m.to(grad.dtype, memory_format=torch.channels_last) for m in maps]
