"""The kernels by torchvision's compiled operators: on GPUs, and on CPUs without numba.

RoIs never leave their fixed places: on each map all RoIs are pooled, those of other levels from a box far outside,
which reads nothing and gives 0, and the maps' results are added. So nothing waits for the GPU. The gradient sums in
whatever order the GPU's atomic additions come (torchvision's kernels), so it may differ in the last bits run to run.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from rcnn.kernels.reference.matching import match
from rcnn.kernels.reference.roi_pool import roi_pool_backward

__all__ = ["nms", "match", "roi_align", "roi_align_backward", "roi_pool", "roi_pool_backward"]


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Kept boxes of boxes [B, N, 4]: index [B, capacity] and count [B]; see `rcnn.kernels.nms`."""
    index = torch.zeros((len(boxes), capacity), dtype=torch.int64, device=boxes.device)
    count = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    # Groups are moved apart. In float64 the move is exact: in float32 boxes of high groups lose their fractions.
    corners = boxes.double()
    if groups is not None and boxes.numel():
        corners = corners + ((corners.amax() - corners.amin() + 1) * groups)[..., None]
    for b in range(len(boxes)):
        candidates = valid[b].nonzero()[:, 0]
        kept = torchvision.ops.nms(corners[b, candidates], scores[b, candidates].double(), threshold)[:capacity]
        index[b, : len(kept)] = candidates[kept]
        count[b] = len(kept)
    return index, count


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
    dtype = torch.promote_types(features[0].dtype, torch.float32)  # torchvision's CPU operators refuse bfloat16
    pooled = boxes.new_zeros((levels.numel(), features[0].shape[1], size, size), dtype=dtype)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rois = _rois(boxes, levels, level).to(dtype)
        pooled += torch.ops.torchvision.roi_align(
            feature.to(dtype), rois, 1 / stride, size, size, sampling_ratio or -1, aligned
        )
    return pooled.unflatten(0, levels.shape).to(features[0].dtype)


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
    images, _, channels, size, _ = grad.shape
    dtype = torch.promote_types(grad.dtype, torch.float32)
    maps = []
    for level, (height, width, stride) in enumerate(zip(heights, widths, strides, strict=True)):
        rois = _rois(boxes, levels, level).to(dtype)
        scale, sampling = 1 / stride, sampling_ratio or -1
        total = torch.ops.torchvision._roi_align_backward(
            grad.to(dtype).flatten(0, 1), rois, scale, size, size, images, channels, height, width, sampling, aligned
        )
        maps.append(total.to(grad.dtype, memory_format=torch.channels_last))
    return maps


def roi_pool(
    features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int
) -> tuple[Tensor, Tensor]:
    """Pooled features [B, N, C, P, P] and chosen pixels [B, N, P·P, C]; see `rcnn.kernels.roi_pool`."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    pooled = boxes.new_zeros((levels.numel(), features[0].shape[1], size, size), dtype=dtype)
    chosen = torch.full_like(pooled, -1, dtype=torch.int32)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rois = _rois(boxes, levels, level).to(dtype)
        values, pixels = torch.ops.torchvision.roi_pool(feature.to(dtype), rois, 1 / stride, size, size)
        pooled += values
        chosen = torch.maximum(chosen, pixels.int())
    chosen = chosen.flatten(2).transpose(1, 2).contiguous().unflatten(0, levels.shape)
    return pooled.unflatten(0, levels.shape).to(features[0].dtype), chosen


def _rois(boxes: Tensor, levels: Tensor, level: int) -> Tensor:
    """Torchvision's RoIs [B·N, 5], image number first; those that aren't of this level lie far outside every map."""
    images = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    placed = torch.where((levels == level)[..., None], boxes, -1e6)
    return torch.cat((images[:, None, None].expand(*levels.shape, 1), placed), -1).flatten(0, 1)
