"""RoI max pooling in plain torch: a maximum over columns, then over rows, of each bin of one RoI after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.kernels.reference.roi_align import _rois


def axis_bins(start: Tensor, end: Tensor, extent: int, size: int) -> Tensor:
    """Which pixels along one axis each of P = `size` bins holds: [P, extent] bool; `start`, `end` in pixels, float32."""
    first, last = _round(start), _round(end)
    width = (last - first + 1).clamp(min=1) / size
    bins = torch.arange(size, dtype=width.dtype, device=width.device)[:, None]
    pixels = torch.arange(extent, dtype=width.dtype, device=width.device)
    return (pixels >= first + (bins * width).floor()) & (pixels < first + ((bins + 1) * width).ceil())


def _round(x: Tensor) -> Tensor:
    """The nearest whole number, half away from zero (torch.round goes to the even one)."""
    return x.trunc() + torch.where((x - x.trunc()).abs() >= 0.5, x.sign(), 0)


def roi_pool(
    features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int
) -> tuple[Tensor, Tensor]:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_pool`.

    Also returns the chosen pixels, y·W + x of each bin and channel or -1: [B, N, P·P, C] int32.
    """
    channels = features[0].shape[1]
    pooled = features[0].new_zeros((*levels.shape, channels, size, size))
    chosen = torch.full((*levels.shape, size * size, channels), -1, dtype=torch.int32, device=boxes.device)
    for b, n, level in _rois(levels, len(features)):
        feature = features[level][b]  # [C, H, W]
        x1, y1, x2, y2 = boxes[b, n] * (1.0 / strides[level])
        rows = axis_bins(y1, y2, feature.shape[1], size)  # [P, H]
        columns = axis_bins(x1, x2, feature.shape[2], size)  # [P, W]
        along = feature[:, :, None].masked_fill(~columns, -torch.inf)  # [C, H, P, W]
        value, x = along.max(-1)  # [C, H, P]
        value = value[:, None].masked_fill(~rows[None, :, :, None], -torch.inf)  # [C, P, H, P]
        value, y = value.max(2)  # [C, P, P]
        pixel = y * feature.shape[2] + x.gather(1, y)
        filled = rows.any(1)[:, None] & columns.any(1)  # [P, P]
        pooled[b, n] = torch.where(filled, value, 0)
        chosen[b, n] = torch.where(filled, pixel, -1).flatten(1).T.int()
    return pooled, chosen


def roi_pool_backward(
    grad: Tensor, chosen: Tensor, levels: Tensor, heights: list[int], widths: list[int]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    images, proposals, channels = grad.shape[:3]
    dtype = torch.promote_types(grad.dtype, torch.float32)
    flat = grad.to(dtype).flatten(3).transpose(2, 3)  # [B, N, P·P, C]
    maps = []
    for level, (height, width) in enumerate(zip(heights, widths, strict=True)):
        taken = (chosen >= 0) & (levels == level)[..., None, None]
        total = flat.new_zeros((images, height * width, channels))
        pixel = chosen.clamp(min=0, max=height * width - 1).long().flatten(1, 2)
        total.scatter_add_(1, pixel, torch.where(taken, flat, 0).flatten(1, 2))
        maps.append(total.unflatten(1, (height, width)).permute(0, 3, 1, 2).to(grad.dtype))
    return maps
