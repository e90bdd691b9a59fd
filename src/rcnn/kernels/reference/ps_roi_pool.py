"""Position-sensitive RoI pooling as matrix products: whatever the rule, a bin is a weighted sum of its maps' pixels.

The weights of the pixels of bin (i, j) are those of row i times those of column j. So for each bin the RoIs' weights
[N, H·W] meet the bin's maps [H·W, D], and nothing but the adaptive sampling waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rcnn.kernels.reference.roi_align import axis_weights
from rcnn.kernels.reference.roi_pool import _round


def axis_means(start: Tensor, end: Tensor, scale: float, extent: int, size: int, rule: str) -> Tensor:
    """Weights [N, k, extent] of the pixels along one axis for the k bins of RoIs from `start` to `end` [N], pixels."""
    bins = torch.arange(size, dtype=start.dtype, device=start.device)
    if rule == "caffe":
        first = (_round(start) * scale)[:, None]
        width = ((_round(end) + 1) * scale - first[:, 0]).clamp(min=0.1)[:, None] / size
        low, high, last = (bins * width + first).floor(), ((bins + 1) * width + first).ceil(), extent
    else:
        first = _round(start * scale)[:, None]
        width = (_round(end * scale) - first[:, 0]).clamp(min=1)[:, None] / size
        low, high, last = (bins * width).floor() + first, ((bins + 1) * width).ceil() + first, extent - 1
    pixels = torch.arange(extent, dtype=start.dtype, device=start.device)
    inside = (pixels >= low[..., None]) & (pixels < high.clamp(max=last)[..., None])  # [N, k, extent]
    return inside / inside.sum(-1, keepdim=True).clamp(min=1)


def ps_roi_pool(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    """Pooled outputs [B, N, k², D] of boxes [B, N, 4] in a map [B, k²·D, H, W]; see `rcnn.kernels.ps_roi_pool`."""
    images, _, height, width = feature.shape
    dtype = torch.promote_types(feature.dtype, torch.float32)
    maps = feature.to(dtype).view(images, size * size, -1, height * width)  # [B, k², D, H·W]
    pooled = maps.new_zeros((*valid.shape, size * size, maps.shape[2]))
    for b, bin, weights in _bin_weights(boxes, valid, (height, width), stride, size, rule, sampling_ratio):
        pooled[b, :, bin] = weights.to(dtype) @ maps[b, bin].T
    return pooled.to(feature.dtype)


def ps_roi_pool_backward(
    grad: Tensor, boxes: Tensor, valid: Tensor, height: int, width: int, stride: float, rule: str, sampling_ratio: int
) -> Tensor:
    """The gradient map [B, k²·D, H, W], channels-last, for the gradient [B, N, k², D] of `ps_roi_pool`."""
    images, _, bins, outputs = grad.shape
    dtype = torch.promote_types(grad.dtype, torch.float32)
    maps = grad.new_zeros((images, bins, outputs, height * width), dtype=dtype)
    size = round(bins**0.5)
    for b, bin, weights in _bin_weights(boxes, valid, (height, width), stride, size, rule, sampling_ratio):
        maps[b, bin] = grad[b, :, bin].T.to(dtype) @ weights.to(dtype)
    return maps.view(images, bins * outputs, height, width).to(grad.dtype, memory_format=torch.channels_last)


def _bin_weights(
    boxes: Tensor, valid: Tensor, extents: tuple[int, int], stride: float, size: int, rule: str, sampling_ratio: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Each image and bin by number, and the weights [N, H·W] of the bin's pixels for the RoIs of the image."""
    scale = 1.0 / stride
    for b in range(len(boxes)):
        axes = []
        for start, end, extent in zip(boxes[b].T[:2].flip(0), boxes[b].T[2:].flip(0), extents, strict=True):
            if rule == "align":
                each = zip(start * scale, end * scale, strict=True)
                rows = [axis_weights(low, high, extent, size, sampling_ratio, True) for low, high in each]
                axes.append(torch.stack(rows) if rows else start.new_zeros((0, size, extent)))
            else:
                axes.append(axis_means(start, end, scale, extent, size, rule))
        rows, columns = axes[0] * valid[b][:, None, None], axes[1]
        for bin in range(size * size):
            weights = rows[:, bin // size, :, None] * columns[:, bin % size, None, :]
            yield b, bin, weights.flatten(1)
