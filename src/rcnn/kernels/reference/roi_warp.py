"""RoI warping in plain torch: all RoIs sampled from a map at once; their corners' gradient by the chain rule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shares(size: int, like: Tensor) -> Tensor:
    """[S]: how far each of S = `size` samples lies from a RoI's start to its end, in the type and place of `like`."""
    return (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size


def roi_warp(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    """Samples [B, N, C, S, S] of boxes [B, N, 4] in maps [B, C, H, W]; see `rcnn.kernels.roi_warp`."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    warped = features[0].new_zeros((*levels.shape, features[0].shape[1], size, size), dtype=dtype)
    if levels.numel() == 0:
        return warped.to(features[0].dtype)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        grid = _grid(boxes, feature, stride, size).to(dtype)
        sampled = F.grid_sample(feature.to(dtype), grid, padding_mode="border", align_corners=False)
        sampled = sampled.unflatten(2, (-1, size)).transpose(1, 2)  # [B, N, C, S, S]
        warped = torch.where((levels == level)[..., None, None, None], sampled, warped)
    return warped.to(features[0].dtype)


def roi_warp_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> tuple[list[Tensor], Tensor]:
    """Gradients of maps [B, C, H, W], channels-last, and of boxes [B, N, 4], for that of `roi_warp` [B, N, C, S, S]."""
    dtype, size = torch.promote_types(grad.dtype, torch.float32), grad.shape[-1]
    maps, corners = [torch.zeros_like(f, memory_format=torch.channels_last) for f in features], torch.zeros_like(boxes)
    if levels.numel() == 0:
        return maps, corners
    share = shares(size, boxes)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = (levels == level)[..., None, None, None]
        given = torch.where(here, grad.to(dtype), 0.0).transpose(1, 2).flatten(2, 3)  # [B, C, N·S, S]
        grid = _grid(boxes, feature, stride, size).to(dtype)
        to_map, to_grid = torch.ops.aten.grid_sampler_2d_backward(
            given, feature.to(dtype), grid, 0, 1, False, [True, True]
        )
        maps[level] = to_map.to(grad.dtype, memory_format=torch.channels_last)
        to_grid = to_grid.to(boxes.dtype).unflatten(1, (-1, size))  # [B, N, S, S, 2]
        height, width = feature.shape[2:]
        to_x = to_grid[..., 0].sum(2) * (2 / (stride * width))  # [B, N, S]
        to_y = to_grid[..., 1].sum(3) * (2 / (stride * height))
        starts, ends = ([(to @ weight) for to in (to_x, to_y)] for weight in (1 - share, share))
        corners = corners + torch.stack((*starts, *ends), -1)  # [B, N, 4]
    return maps, corners


def _grid(boxes: Tensor, feature: Tensor, stride: float, size: int) -> Tensor:
    """Where the samples of boxes [B, N, 4] lie on a map [B, C, H, W], as `grid_sample` counts: [B, N·S, S, 2]."""
    share = shares(size, boxes)
    start, end = boxes[..., None, :2], boxes[..., None, 2:]  # [B, N, 1, 2]
    position = start + share[:, None] * (end - start)  # [B, N, S, 2] pixels of the input
    # Side by side: a tensor of the two sides would be a copy to the GPU, which waits for it.
    x, y = (
        position[..., axis] * 2 / (side * stride) - 1 for axis, side in enumerate((feature.shape[3], feature.shape[2]))
    )  # [B, N, S] each
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None], y[..., None]), -1)  # [B, N, S, S, 2]
    return grid.flatten(1, 2)
