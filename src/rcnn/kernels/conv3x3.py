"""3×3 convolutions of stride 1, on CPUs by Winograd's algorithm, forward and backward, where that is faster.

Letters: B images, C channels in, K out, H W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.kernels.forms import form
from rcnn.kernels.winograd import winograd_convolve, winograd_weight_gradient, winograd_weights

# The transforms walk memory, which narrow maps do not repay, and the weights' is done for each map, which small ones
# do not.
CHANNELS, CELLS = 128, 4096


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of x [B, C, H, W] with weights [K, C, 3, 3] and padding 1, plus a bias [K]: [B, K, H, W].

    In float32 on a CPU large wide maps go by Winograd's algorithm, which differs from the plain sum by rounding.
    """
    wide = min(weight.shape[:2]) >= CHANNELS and x.shape[0] * x.shape[2] * x.shape[3] >= CELLS
    if wide and _quick(x) and x.dtype == weight.dtype == torch.float32:
        y = torch.ops.rcnn.conv3x3(x, weight)
        return y if bias is None else y + bias[:, None, None]
    return F.conv2d(x, weight, bias, padding=1)


def _quick(x: Tensor) -> bool:
    """Whether numba's transforms run on the tensor as it is; autocast would have it in another type."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and hasattr(form("cpu"), "winograd_tiles")


torch.library.define("rcnn::conv3x3", "(Tensor x, Tensor weight) -> Tensor")


@torch.library.impl("rcnn::conv3x3", "default")
def _conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    placed = winograd_weights(weight).transpose(1, 2)  # [36, C, K]
    return winograd_convolve(x, lambda patches: torch.bmm(patches, placed), weight.new_zeros(len(weight)))


@torch.library.register_fake("rcnn::conv3x3")
def _(x: Tensor, weight: Tensor) -> Tensor:
    y = x.new_empty((x.shape[0], x.shape[2], x.shape[3], len(weight)))
    return y.permute(0, 3, 1, 2)


torch.library.define("rcnn::conv3x3_weight_gradient", "(Tensor x, Tensor gradient) -> Tensor")


@torch.library.impl("rcnn::conv3x3_weight_gradient", "default")
def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    return winograd_weight_gradient(x, gradient)


@torch.library.register_fake("rcnn::conv3x3_weight_gradient")
def _(x: Tensor, gradient: Tensor) -> Tensor:
    return x.new_empty((gradient.shape[1], x.shape[1], 3, 3))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    by_x = by_weight = None
    if ctx.needs_input_grad[0]:
        by_x = torch.ops.rcnn.conv3x3(gradient, weight.flip(2, 3).transpose(0, 1))
    if ctx.needs_input_grad[1]:
        by_weight = torch.ops.rcnn.conv3x3_weight_gradient(x, gradient)
    return by_x, by_weight


torch.library.register_autograd("rcnn::conv3x3", _differentiate, setup_context=_save)
