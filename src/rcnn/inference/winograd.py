"""3×3 convolutions by Winograd's algorithm: the only way below the time of their plain sums (`kernels.winograd`).

Letters: B images, C channels in, K out, H W rows and columns, T tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnn import kernels
from rcnn.inference.layers import Convolution, FusedConv2d, packed_linear


class WinogradConv2d(nn.Module):
    """A 3×3 convolution of stride 1 by Winograd's algorithm, [B, C, H, W] float32 to [B, K, H, W], channels-last.

    Args:
        conv: what to compute; `suits` it.
    """

    def __init__(self, conv: Convolution) -> None:
        super().__init__()
        self.weights = [packed_linear(one) for one in kernels.winograd_weights(conv.weight)]  # [K, C] each
        self.bias, self.rectified = conv.bias, conv.activation is nn.ReLU

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, H, W]."""
        return kernels.winograd_convolve(x.float(), self._multiply, self.bias, rectified=self.rectified)

    def _multiply(self, patches: Tensor) -> list[Tensor]:
        """Patches [36, t, C] to 36 products [t, K]."""
        product = torch.ops.mkldnn._linear_pointwise
        return [
            product(one, weight(*one.shape), None, "none", [], None)
            for one, weight in zip(patches, self.weights, strict=True)
        ]


def suits(conv: Convolution) -> bool:
    """Whether Winograd's algorithm computes a convolution, and faster."""
    plain = (conv.stride, conv.padding, conv.dilation, conv.groups) == ((1, 1), (1, 1), (1, 1), 1)
    square = conv.weight.shape[2:] == (3, 3) and min(conv.weight.shape[:2]) >= kernels.CHANNELS
    return plain and square and conv.activation in (nn.Identity, nn.ReLU)


def convolution(conv: Convolution, dtype: torch.dtype, *, summed: bool = False) -> nn.Module:
    """The fastest layer for a convolution; `summed` if something is added before its activation."""
    if suits(conv) and dtype == torch.float32 and not summed and hasattr(kernels.form("cpu"), "winograd_tiles"):
        return WinogradConv2d(conv)
    return FusedConv2d(conv, dtype)
