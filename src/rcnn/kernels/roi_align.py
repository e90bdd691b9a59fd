"""RoIAlign over the maps of a pyramid: each bin is the mean of bilinear samples (He et al. 2017, section 3).

Letters: B images, N RoIs, C channels, P pooled side, H W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcnn.kernels.forms import form


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    *,
    strides: Sequence[float],
    size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Features of each RoI on a grid of `size` × `size` bins.

    Args:
        features: maps [B, C, H, W] of any floating type; read fastest where channels-last.
        boxes: [B, N, 4] pixels of the input image. No gradient flows to them.
        levels: [B, N] int64, which of the maps to read; -1 marks padding: zeros, and no gradient.
        strides: input pixels per pixel of each map.
        sampling_ratio: samples of a bin along each axis; 0 takes ⌈RoI side / P⌉, about one a pixel.
        aligned: pixel centres lie at +0.5 (the exact convention); false is that of the first releases, half a pixel
            off and with RoIs of at least one pixel.

    Returns:
        [B, N, C, P, P] in the type of the features, contiguous. Samples more than a pixel outside the map are 0.
    """
    return torch.ops.rcnn.roi_align(
        list(features), boxes.float(), levels, [float(s) for s in strides], size, sampling_ratio, aligned
    )


torch.library.define(
    "rcnn::roi_align",
    "(Tensor[] features, Tensor boxes, Tensor levels, float[] strides, int size, int sampling_ratio,"
    " bool aligned) -> Tensor",
)


@torch.library.impl("rcnn::roi_align", "default")
def _roi_align(
    features: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: list[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    run = form(boxes.device.type).roi_align
    return run(features, boxes, levels, strides, size, sampling_ratio, aligned)


@torch.library.register_fake("rcnn::roi_align")
def _(
    features: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: list[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return features[0].new_empty((*levels.shape, features[0].shape[1], size, size))


torch.library.define(
    "rcnn::roi_align_backward",
    "(Tensor grad, Tensor boxes, Tensor levels, SymInt[] heights, SymInt[] widths, float[] strides,"
    " int sampling_ratio, bool aligned) -> Tensor[]",
)


@torch.library.impl("rcnn::roi_align_backward", "default")
def _roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    levels: Tensor,
    heights: list[int],
    widths: list[int],
    strides: list[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    run = form(boxes.device.type).roi_align_backward
    return run(grad, boxes, levels, heights, widths, strides, sampling_ratio, aligned)


@torch.library.register_fake("rcnn::roi_align_backward")
def _(
    grad: Tensor,
    boxes: Tensor,
    levels: Tensor,
    heights: list[int],
    widths: list[int],
    strides: list[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    return empty_maps(grad, heights, widths)


def empty_maps(grad: Tensor, heights: Sequence[int], widths: Sequence[int]) -> list[Tensor]:
    """Uninitialised gradient maps [B, C, H, W], channels-last, for the gradient [B, N, C, P, P] of pooled features."""
    images, _, channels = grad.shape[:3]
    return [
        torch.empty((images, channels, h, w), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
        for h, w in zip(heights, widths, strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, levels, ctx.strides, _, ctx.sampling_ratio, ctx.aligned = inputs
    ctx.heights, ctx.widths = [f.shape[2] for f in features], [f.shape[3] for f in features]
    ctx.save_for_backward(boxes, levels)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, levels = ctx.saved_tensors
    maps = torch.ops.rcnn.roi_align_backward(
        grad, boxes, levels, ctx.heights, ctx.widths, ctx.strides, ctx.sampling_ratio, ctx.aligned
    )
    return maps, None, None, None, None, None, None


torch.library.register_autograd("rcnn::roi_align", _differentiate, setup_context=_save)
