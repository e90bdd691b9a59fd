"""3×3 convolutions by Winograd's algorithm: the only way below the time of their plain sums (`kernels.winograd`).

Letters: B images, C channels in, K out, H W rows and columns, T tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnn import kernels
from rcnn.inference.layers import Convolution, FusedConv2d, packed_linear

# The transforms walk memory: below so many channels the plain convolution is faster.
CHANNELS = 128
# So many tiles at once: their patches and products stay in the last cache.
TILES = 1024


class WinogradConv2d(nn.Module):
    """A 3×3 convolution of stride 1 by Winograd's algorithm, [B, C, H, W] float32 to [B, K, H, W], channels-last.

    Args:
        conv: what to compute; `suits` it.
    """

    def __init__(self, conv: Convolution) -> None:
        super().__init__()
        placed = kernels.winograd_weights(conv.weight)  # [36, K, C]
        self.weights = [packed_linear(one) for one in placed]
        self.bias, self.rectified = conv.bias.numpy(), conv.activation is nn.ReLU

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, K, H, W]."""
        x = x.float().permute(0, 2, 3, 1).contiguous()  # [B, H, W, C]
        batch, height, width, channels = x.shape
        tiles = batch * -(-height // kernels.TILE) * -(-width // kernels.TILE)
        y = torch.empty(batch, height, width, len(self.bias))
        for first in range(0, tiles, TILES):
            count = min(TILES, tiles - first)
            patches = torch.empty(len(self.weights), count, channels)
            kernels.winograd_patches(x.numpy(), first, patches.numpy())
            products = torch.empty(*patches.shape[:2], len(self.bias))
            for place, weight in enumerate(self.weights):
                packed = weight(count, channels)
                products[place] = torch.ops.mkldnn._linear_pointwise(patches[place], packed, None, "none", [], None)
            kernels.winograd_tiles(products.numpy(), self.bias, first, y.numpy(), rectified=self.rectified)
        return y.permute(0, 3, 1, 2)


def suits(conv: Convolution) -> bool:
    """Whether Winograd's algorithm computes a convolution, and faster."""
    plain = (conv.stride, conv.padding, conv.dilation, conv.groups) == ((1, 1), (1, 1), (1, 1), 1)
    square = conv.weight.shape[2:] == (3, 3) and min(conv.weight.shape[:2]) >= CHANNELS
    return plain and square and conv.activation in (nn.Identity, nn.ReLU)


def convolution(conv: Convolution, dtype: torch.dtype, *, summed: bool = False) -> nn.Module:
    """The fastest layer for a convolution; `summed` if something is added before its activation."""
    if suits(conv) and dtype == torch.float32 and not summed and hasattr(kernels.form("cpu"), "winograd_tiles"):
        return WinogradConv2d(conv)
    return FusedConv2d(conv, dtype)
