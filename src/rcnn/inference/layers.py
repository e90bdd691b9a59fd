"""Convolutions and linear layers by oneDNN's fused operators: weights packed once, activation and sum in one pass.

The operators are those that `torch.compile` calls on a CPU. They are private to torch, so `works` tries them once a
process against the public ones, and everything here is left out where they have gone or changed.
Letters: B images, C channels in, K out, H W rows and columns, R rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What oneDNN can do to an output while it is in registers: our module → its name and parameters there.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.Hardsigmoid: ("hardsigmoid", []),
}
AFTER_SUMS = (nn.Identity, nn.ReLU)


@dataclass(frozen=True)
class Convolution:
    """A convolution with everything behind it that becomes a part of it.

    Attributes:
        weight: [K, C / groups, h, w] float32; bias: [K] float32.
        stride, padding, dilation: of rows and columns.
        activation: one of `ACTIVATIONS`.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: type[nn.Module] = nn.Identity


class Packed:
    """A weight in the orders that oneDNN's kernels want, which hang on the shape of what comes in.

    The wrong order costs up to thirty times the time. For all shapes together there are two or three, and only these
    are kept.

    Args:
        weight: plain, on the CPU.
        pack: (weight, shape of the input) to the packed weight.
    """

    def __init__(self, weight: Tensor, pack: Callable[[Tensor, list[int]], Tensor]) -> None:
        self._weight = weight  # plain, until there is one in an order of oneDNN's
        self._pack = pack
        self._orders: dict[bytes, Tensor] = {}
        self._of_shape: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, *shape: int) -> Tensor:
        """The weight for inputs of a shape."""
        if shape not in self._of_shape:
            weight = self._weight  # once, for another thread may be here too
            packed = self._pack(weight.to_dense() if weight.is_mkldnn else weight, [*shape])
            order = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().tobytes()
            self._of_shape[shape] = self._weight = self._orders.setdefault(order, packed)
        return self._of_shape[shape]


def packed_linear(weight: Tensor) -> Packed:
    """The weight [K, C] of a linear layer, for inputs [R, C]."""
    return Packed(weight, lambda plain, shape: torch.ops.mkldnn._reorder_linear_weight(plain, shape[0]))


class FusedConv2d(nn.Module):
    """A convolution by oneDNN, [B, C, H, W] to [B, K, H', W'], channels-last, in the type of its weights.

    Args:
        conv: what to compute.
        dtype: float32 or bfloat16.
    """

    def __init__(self, conv: Convolution, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype, self.bias = dtype, conv.bias.to(dtype)
        self.geometry = [*conv.padding], [*conv.stride], [*conv.dilation], conv.groups
        self.activation = ACTIVATIONS[conv.activation]
        pack = torch.ops.mkldnn._reorder_convolution_weight
        self.weight = Packed(conv.weight.to(dtype), lambda weight, shape: pack(weight, *self.geometry, shape))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """The activation of the convolution of x, with `other` [B, K, H', W'] added to it first if it is given."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        weight = self.weight(min(len(x), 2), *x.shape[1:])  # the order is that of two for any larger batch
        name, numbers = self.activation
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, name, numbers, None)
        other = other.to(self.dtype, memory_format=torch.channels_last)
        unary = (None, []) if name == "none" else (name, numbers)
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, weight, self.bias, *self.geometry, "add", 1.0, *unary, None
        )


class FusedLinear(nn.Module):
    """A linear layer by oneDNN, [R, C] to [R, K] in the type of its weights: MKL's runs at half speed on some CPUs.

    Args:
        linear: whose weights it takes.
        dtype: float32 or bfloat16.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(
        self, linear: nn.Linear, dtype: torch.dtype = torch.float32, activation: type[nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        self.dtype, self.activation = dtype, ACTIVATIONS[activation]
        self.weight = packed_linear(linear.weight.detach().to(dtype))
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[R, C] to [R, K]."""
        weight = self.weight(*x.shape)
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), weight, self.bias, *self.activation, None)


class FusedUpConv2d(nn.Module):
    """A transposed convolution whose 2×2 windows do not overlap: a product for each place of the window, interleaved.

    [B, C, H, W] to [B, K, 2H, 2W], channels-last, in the type of its weights.
    """

    def __init__(self, layer: nn.ConvTranspose2d, dtype: torch.dtype, activation: type[nn.Module]) -> None:
        super().__init__()
        self.channels = layer.out_channels
        weight = layer.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]  # [2·2·K, C, 1, 1]
        bias = torch.zeros(self.channels) if layer.bias is None else layer.bias.detach()
        self.layer = FusedConv2d(Convolution(weight, bias.repeat(4), activation=activation), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, 2H, 2W]."""
        y = self.layer(x).permute(0, 2, 3, 1)  # [B, H, W, 2·2·K]
        batch, height, width, _ = y.shape
        y = y.view(batch, height, width, 2, 2, self.channels).transpose(2, 3)
        return y.reshape(batch, 2 * height, 2 * width, self.channels).permute(0, 3, 1, 2)


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, for a type, and they give what the public ones give."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(2, 16, 7, 9, generator=generator) for _ in range(2))
    conv, linear = nn.Conv2d(16, 16, 3, padding=1, device="meta"), nn.Linear(16, 16, device="meta")
    weight = torch.randn(conv.weight.shape, generator=generator)
    bias = torch.randn(16, generator=generator)
    linear.weight, linear.bias = nn.Parameter(weight[:, :, 0, 0].contiguous()), nn.Parameter(bias)
    expected = F.conv2d(x, weight, bias, padding=1)
    try:
        with torch.inference_mode():
            found = []
            for kind in ACTIVATIONS:
                layer = FusedConv2d(Convolution(weight, bias, padding=(1, 1), activation=kind), dtype)
                found.append((layer(x), kind()(expected)))
                if kind in AFTER_SUMS:
                    found.append((layer(x, other), kind()(expected + other)))
            found.append((FusedLinear(linear, dtype)(x[:, :, 0, 0]), linear(x[:, :, 0, 0])))
        near = 1e-4 if dtype == torch.float32 else 0.1
        return all(a.shape == b.shape and (a.float() - b).abs().max() <= near * b.abs().max() for a, b in found)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
