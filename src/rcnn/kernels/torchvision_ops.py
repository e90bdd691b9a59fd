"""The kernels by torchvision's compiled operators: on CPUs without numba, and on GPUs without Triton.

RoIs never leave their fixed places: on each map all RoIs are pooled, those of other levels from a box far outside,
which reads nothing and gives 0, and the maps' results are added. So nothing waits for the GPU, but NMS once a batch:
torchvision's own asks how many boxes it kept. The gradient sums in whatever order the GPU's atomic additions come
(torchvision's kernels), so it may differ in the last bits run to run.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

from rcnn.kernels.reference.matching import match
from rcnn.kernels.reference.ps_roi_pool import ps_roi_pool as pool_by_products
from rcnn.kernels.reference.ps_roi_pool import ps_roi_pool_backward as pool_by_products_backward
from rcnn.kernels.reference.roi_warp import roi_warp, roi_warp_backward
from rcnn.kernels.reference.warp import warp

# Boxes of one call of torchvision's NMS, which marks every pair in a bit: 128 MiB for so many.
_AT_ONCE = 32768

__all__ = [
    "nms",
    "match",
    "roi_align",
    "roi_align_backward",
    "roi_pool",
    "roi_pool_backward",
    "ps_roi_pool",
    "ps_roi_pool_backward",
    "roi_warp",
    "roi_warp_backward",
    "warp",
]


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Kept boxes of boxes [B, N, 4]: index [B, capacity] and count [B]; see `rcnn.kernels.nms`."""
    images, candidates = scores.shape
    if images * candidates == 0:
        return valid.new_zeros((images, capacity), dtype=torch.int64), valid.new_zeros(images, dtype=torch.int64)
    together = max(1, _AT_ONCE // candidates)
    groups = torch.zeros_like(valid, dtype=torch.int64) if groups is None else groups
    parts = (slice(first, first + together) for first in range(0, images, together))
    order = scores.argsort(dim=1, descending=True, stable=True)  # [B, N]
    kept = torch.cat([_survivors(boxes[i], scores[i], valid[i], groups[i], threshold) for i in parts])  # [B, N]
    kept = kept.gather(1, order)  # best first
    # The kept move to the front of their row; what is not kept, or beyond the capacity, falls into one more column.
    place = torch.where(kept, kept.cumsum(1) - 1, capacity).clamp(max=capacity)
    index = order.new_zeros((images, capacity + 1)).scatter_(1, place, order)[:, :capacity]
    count = kept.sum(1).clamp(max=capacity)
    return index.masked_fill(torch.arange(capacity, device=boxes.device) >= count[:, None], 0), count


def _survivors(boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """[B, N] bool: which valid boxes [B, N, 4] no better one of their image and group suppresses.

    Images are moved apart sideways and groups downwards, so that one call serves all. In float64 the move is exact: in
    float32 boxes far out lose their fractions. Invalid boxes become empty ones, which overlap nothing.
    """
    corners = torch.where(valid[..., None], boxes, 0.0).double()
    span = corners.amax() - corners.amin() + 1
    column = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(valid)
    corners = corners + torch.stack((column, groups, column, groups), -1) * span  # [B, N, 4]
    kept = torchvision.ops.nms(corners.flatten(0, 1), scores.flatten().double(), threshold)
    return torch.zeros_like(valid).flatten().index_fill_(0, kept, True).view_as(valid) & valid


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


def roi_pool(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Pooled features [B, N, C, P, P] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_pool`."""
    pooled = torch.stack([values for values, _ in _maxima(features, boxes, levels, strides, size)]).sum(0)
    return pooled.unflatten(0, levels.shape).to(features[0].dtype)


def roi_pool_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> list[Tensor]:
    """Gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of `roi_pool`."""
    maps = []
    for feature, (values, pixels) in zip(
        features, _maxima(features, boxes, levels, strides, grad.shape[-1]), strict=True
    ):
        given = torch.where(pixels >= 0, grad.to(values.dtype).flatten(0, 1), 0).unflatten(0, levels.shape)
        pixels = pixels.clamp(min=0).long().unflatten(0, levels.shape)
        total = values.new_zeros(feature.shape).flatten(2)  # [B, C, H·W]
        total.scatter_add_(2, *(t.transpose(1, 2).flatten(2) for t in (pixels, given)))
        maps.append(total.view(feature.shape).to(grad.dtype, memory_format=torch.channels_last))
    return maps


def _maxima(
    features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each map the maxima [B·N, C, P, P] of the bins of its RoIs and their pixels y·W + x; else 0 and -1."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rois = _rois(boxes, levels, level).to(dtype)
        yield torch.ops.torchvision.roi_pool(feature.to(dtype), rois, 1 / stride, size, size)


def ps_roi_pool(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    """Pooled outputs [B, N, k², D] of boxes [B, N, 4] in a map [B, k²·D, H, W]; see `rcnn.kernels.ps_roi_pool`.

    Torchvision has no operator for Caffe's rule: matrix products serve it.
    """
    if rule == "caffe":
        return pool_by_products(feature, boxes, valid, stride, size, rule, sampling_ratio)
    dtype = torch.promote_types(feature.dtype, torch.float32)
    maps = feature.to(dtype).unflatten(1, (size * size, -1)).transpose(1, 2).flatten(1, 2).contiguous()
    rois = _rois(boxes, valid.long() - 1, 0).to(dtype)
    if rule == "torchvision":
        pooled = torch.ops.torchvision.ps_roi_pool(maps, rois, 1 / stride, size, size)[0]
    else:
        pooled = torch.ops.torchvision.ps_roi_align(maps, rois, 1 / stride, size, size, sampling_ratio or -1)[0]
    if rule == "align" and sampling_ratio == 0:  # where a side is 0 torchvision divides by no samples
        pooled = torch.where((rois[:, 3:] > rois[:, 1:3]).all(1)[:, None, None, None], pooled, 0.0)
    return pooled.flatten(2).transpose(1, 2).unflatten(0, valid.shape).to(feature.dtype)


def ps_roi_pool_backward(
    grad: Tensor, boxes: Tensor, valid: Tensor, height: int, width: int, stride: float, rule: str, sampling_ratio: int
) -> Tensor:
    """The gradient map [B, k²·D, H, W], channels-last, for the gradient [B, N, k², D] of `ps_roi_pool`.

    Matrix products serve both kinds of whole bins: the gradient of torchvision's gives some to the last row and column
    of the map, which its forward pass does not read.
    """
    if rule != "align":
        return pool_by_products_backward(grad, boxes, valid, height, width, stride, rule, sampling_ratio)
    images, _, bins, outputs = grad.shape
    size = round(bins**0.5)
    dtype = torch.promote_types(grad.dtype, torch.float32)
    rois = _rois(boxes, valid.long() - 1, 0).to(dtype)
    given = grad.to(dtype).flatten(0, 1).transpose(1, 2).unflatten(2, (size, size)).contiguous()  # [B·N, D, k, k]
    read = torch.arange(bins * outputs, dtype=torch.int32, device=grad.device)
    read = read.view(outputs, size, size).expand_as(given).contiguous()  # the channel of each
    total = torch.ops.torchvision._ps_roi_align_backward(
        given, rois, read, 1 / stride, size, size, sampling_ratio or -1, images, bins * outputs, height, width
    )
    total = total.unflatten(1, (outputs, bins)).transpose(1, 2).flatten(1, 2)
    return total.to(grad.dtype, memory_format=torch.channels_last)


def _rois(boxes: Tensor, levels: Tensor, level: int) -> Tensor:
    """Torchvision's RoIs [B·N, 5], image number first; those that aren't of this level lie far outside every map."""
    images = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    placed = torch.where((levels == level)[..., None], boxes, -1e6)
    return torch.cat((images[:, None, None].expand(*levels.shape, 1), placed), -1).flatten(0, 1)
