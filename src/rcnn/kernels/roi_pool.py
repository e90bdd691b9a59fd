"""RoI max pooling over one or more maps, by the rules of the released code (Girshick 2015, section 2.1).

Letters: B images, N RoIs, C channels, P pooled side, H W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcnn.kernels.forms import form
from rcnn.kernels.roi_align import empty_maps


def roi_pool(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, *, strides: Sequence[float], size: int
) -> Tensor:
    """The maximum of each of `size` × `size` bins of each RoI.

    A corner is rounded to the nearest pixel of the map, half away from zero; right and bottom pixels belong to the
    RoI, which is at least one pixel. Bins overlap where they share a pixel; a bin outside the map is 0.

    Args:
        features: maps [B, C, H, W] of any floating type; read fastest where channels-last.
        boxes: [B, N, 4] pixels of the input image. No gradient flows to them.
        levels: [B, N] int64, which of the maps to read; -1 marks padding: zeros, and no gradient.
        strides: input pixels per pixel of each map.

    Returns:
        [B, N, C, P, P] in the type of the features, contiguous. The gradient goes to each bin's maximum, the first
        of equals.
    """
    return torch.ops.rcnn.roi_pool(list(features), boxes.detach().float(), levels, [float(s) for s in strides], size)


torch.library.define(
    "rcnn::roi_pool",
    "(Tensor[] features, Tensor boxes, Tensor levels, float[] strides, int size) -> Tensor",
)


@torch.library.impl("rcnn::roi_pool", "default")
def _roi_pool(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    return form(boxes.device.type).roi_pool(features, boxes, levels, strides, size)


@torch.library.register_fake("rcnn::roi_pool")
def _(features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float], size: int) -> Tensor:
    return features[0].new_empty((*levels.shape, features[0].shape[1], size, size))


# The backward pass looks for the maxima again: to remember them would take as much memory as the pooled features.
torch.library.define(
    "rcnn::roi_pool_backward",
    "(Tensor grad, Tensor[] features, Tensor boxes, Tensor levels, float[] strides) -> Tensor[]",
)


@torch.library.impl("rcnn::roi_pool_backward", "default")
def _roi_pool_backward(
    grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]
) -> list[Tensor]:
    return form(boxes.device.type).roi_pool_backward(grad, features, boxes, levels, strides)


@torch.library.register_fake("rcnn::roi_pool_backward")
def _(grad: Tensor, features: list[Tensor], boxes: Tensor, levels: Tensor, strides: list[float]) -> list[Tensor]:
    return empty_maps(grad, [f.shape[2] for f in features], [f.shape[3] for f in features])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, levels, ctx.strides, _ = inputs
    ctx.save_for_backward(boxes, levels, *features)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, levels, *features = ctx.saved_tensors
    return torch.ops.rcnn.roi_pool_backward(grad, features, boxes, levels, ctx.strides), None, None, None, None


torch.library.register_autograd("rcnn::roi_pool", _differentiate, setup_context=_save)
