"""RoI warping: a RoI is sampled on a fixed grid, differentiably in the features and in its own coordinates.

Dai, He and Sun 2016 ("Instance-aware semantic segmentation via multi-task network cascades", section 3.3) bring it, and
Ren et al. 2017 (section 3.2, item iii) name it as what non-approximate joint training needs: RoI max pooling rounds a
RoI to whole pixels, so that its output does not change as a RoI moves a little, until it jumps. Letters: B images,
N RoIs, C channels, S samples a side, H W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcnn.boxes import precise
from rcnn.kernels.forms import form
from rcnn.kernels.roi_align import empty_maps


def roi_warp(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, *, strides: Sequence[float], size: int
) -> Tensor:
    """Bilinear samples of each RoI at the centres of `size` × `size` equal cells.

    Sample (i, j) lies at `y1 + (i + ½)/S·(y2 − y1), x1 + (j + ½)/S·(x2 − x1)`, pixel centres of the map at +½. One that
    lies outside the map reads its edge, and moves no corner.

    Args:
        features: maps [B, C, H, W] of any floating type; read fastest where channels-last.
        boxes: [B, N, 4] pixels of the input image, float32 or float64. They get a gradient as the features do.
        levels: [B, N] int64, which of the maps to read; -1 marks padding: zeros, and no gradient.
        strides: input pixels per pixel of each map.

    Returns:
        [B, N, C, S, S] in the type of the features; on the CPU with channels innermost in memory.
    """
    return torch.ops.rcnn.roi_warp(list(features), precise(boxes), levels, [float(s) for s in strides], size)


torch.library.define(
    "rcnn::roi_warp",
    "(Tensor[] features, Tensor boxes, Tensor levels, float[] strides, int size) -> Tensor",
)


@torch.library.impl("rcnn::roi_warp", "default")
def _roi_warp(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    return form(boxes.device.type).roi_warp(features, boxes, levels, strides, size)


@torch.library.register_fake("rcnn::roi_warp")
def _(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    channels = features[0].shape[1]
    if boxes.device.type == "cpu":
        return features[0].new_empty((*levels.shape, size, size, channels)).permute(0, 1, 4, 2, 3)
    return features[0].new_empty((*levels.shape, channels, size, size))


torch.library.define(
    "rcnn::roi_warp_backward",
    "(Tensor grad, Tensor[] features, Tensor boxes, Tensor levels, float[] strides) -> (Tensor[], Tensor)",
)


@torch.library.impl("rcnn::roi_warp_backward", "default")
def _roi_warp_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> tuple[list[Tensor], Tensor]:
    return form(boxes.device.type).roi_warp_backward(grad, features, boxes, levels, strides)


@torch.library.register_fake("rcnn::roi_warp_backward")
def _(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> tuple[list[Tensor], Tensor]:
    maps = empty_maps(grad, [f.shape[2] for f in features], [f.shape[3] for f in features])
    return maps, torch.empty_like(boxes)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, levels, ctx.strides, _ = inputs
    ctx.save_for_backward(boxes, levels, *features)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, levels, *features = ctx.saved_tensors
    maps, corners = torch.ops.rcnn.roi_warp_backward(grad, features, boxes, levels, ctx.strides)
    return maps, corners, None, None, None


torch.library.register_autograd("rcnn::roi_warp", _differentiate, setup_context=_save)
