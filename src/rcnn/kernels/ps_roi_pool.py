"""Position-sensitive RoI pooling: each bin of a RoI reads maps of its own (Dai et al. 2016, section 2, equation 1).

Letters: B images, N RoIs, D outputs (K+1 classes, or 4 deltas), k pooled side, H W height and width of the map.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rcnn.kernels.forms import form

Rule = Literal["caffe", "torchvision", "align"]


def ps_roi_pool(
    feature: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    stride: float,
    size: int,
    rule: Rule = "caffe",
    sampling_ratio: int = 2,
) -> Tensor:
    """The mean of each of k × k bins of each RoI, each in the D maps of that bin.

    Maps lie bin by bin: output d of bin (i, j), row i and column j, reads channel (i·k + j)·D + d, so that a bin's
    outputs are neighbours in memory. Caffe's and torchvision's order is (d·k + i)·k + j; `from_caffe_order` turns one
    into the other.

    Args:
        feature: [B, k²·D, H, W] of any floating type; read fastest where channels-last.
        boxes: [B, N, 4] pixels of the input image. No gradient flows to them.
        valid: [B, N] bool; zeros and no gradient where false.
        stride: input pixels per pixel of the map.
        size: k.
        rule: where bins begin and end. "caffe", the released code: corners are rounded to whole input pixels, half
            away from zero, the right and bottom ones included, a RoI has at least 0.1 pixels of the map, and a bin
            every pixel that it touches. "torchvision": corners are rounded to whole pixels of the map, right and bottom
            excluded, a RoI has at least one, and the map's last row and column belong to no bin. Both are 0 in an empty
            bin. "align": bilinear samples and no rounding, as `roi_align` takes them.
        sampling_ratio: of "align", samples of a bin along each axis; 0 takes about one a pixel.

    Returns:
        [B, N, D, k, k] in the type of the features; a view, its outputs innermost in memory.
    """
    pooled = torch.ops.rcnn.ps_roi_pool(
        feature, boxes.detach().float(), valid, float(stride), size, rule, sampling_ratio
    )  # [B, N, k², D]
    return pooled.unflatten(2, (size, size)).permute(0, 1, 4, 2, 3)


def from_caffe_order(channels: Tensor, size: int) -> Tensor:
    """What belongs to channels (d·k + i)·k + j, such as a layer's weight or bias [D·k², …], in this library's order."""
    return channels.unflatten(0, (-1, size * size)).transpose(0, 1).flatten(0, 1)


def to_caffe_order(channels: Tensor, size: int) -> Tensor:
    """The inverse of `from_caffe_order`."""
    return channels.unflatten(0, (size * size, -1)).transpose(0, 1).flatten(0, 1)


torch.library.define(
    "rcnn::ps_roi_pool",
    "(Tensor feature, Tensor boxes, Tensor valid, float stride, int size, str rule, int sampling_ratio) -> Tensor",
)


@torch.library.impl("rcnn::ps_roi_pool", "default")
def _ps_roi_pool(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    return form(boxes.device.type).ps_roi_pool(feature, boxes, valid, stride, size, rule, sampling_ratio)


@torch.library.register_fake("rcnn::ps_roi_pool")
def _(
    feature: Tensor, boxes: Tensor, valid: Tensor, stride: float, size: int, rule: str, sampling_ratio: int
) -> Tensor:
    return feature.new_empty((*valid.shape, size * size, feature.shape[1] // (size * size)))


torch.library.define(
    "rcnn::ps_roi_pool_backward",
    "(Tensor grad, Tensor boxes, Tensor valid, SymInt height, SymInt width, float stride, str rule,"
    " int sampling_ratio) -> Tensor",
)


@torch.library.impl("rcnn::ps_roi_pool_backward", "default")
def _ps_roi_pool_backward(
    grad: Tensor,
    boxes: Tensor,
    valid: Tensor,
    height: int,
    width: int,
    stride: float,
    rule: str,
    sampling_ratio: int,
) -> Tensor:
    run = form(boxes.device.type).ps_roi_pool_backward
    return run(grad, boxes, valid, height, width, stride, rule, sampling_ratio)


@torch.library.register_fake("rcnn::ps_roi_pool_backward")
def _(
    grad: Tensor,
    boxes: Tensor,
    valid: Tensor,
    height: int,
    width: int,
    stride: float,
    rule: str,
    sampling_ratio: int,
) -> Tensor:
    shape = (grad.shape[0], grad.shape[2] * grad.shape[3], height, width)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, boxes, valid, ctx.stride, _, ctx.rule, ctx.sampling_ratio = inputs
    ctx.height, ctx.width = feature.shape[2:]
    ctx.save_for_backward(boxes, valid)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, valid = ctx.saved_tensors
    given = torch.ops.rcnn.ps_roi_pool_backward(
        grad, boxes, valid, ctx.height, ctx.width, ctx.stride, ctx.rule, ctx.sampling_ratio
    )
    return given, None, None, None, None, None, None


torch.library.register_autograd("rcnn::ps_roi_pool", _differentiate, setup_context=_save)
