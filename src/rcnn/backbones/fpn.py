"""The feature pyramid (Lin et al. 2017, section 3): fine maps with the meaning of coarse ones.

Each backbone map C_l gets a 1×1 lateral convolution; from the coarsest down, each sum is repeated to the next finer
map and added; a 3×3 convolution gives P_l. Coarser levels (P6) are P5 subsampled. The names `inner_blocks` and
`layer_blocks` are torchvision's, so its state dicts load. Letters: B images, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.backbones.conv import Conv2d
from rcnn.backbones.norm import NormLayer, ValidRegion


class FPN(nn.Module):
    """Backbone maps, finest first, to pyramid maps of one width, finest first.

    Args:
        in_channels: channels of each backbone map.
        strides: stride in pixels of each backbone map.
        channels: width of every pyramid map (256 in the paper).
        extra: how many coarser levels to subsample from the last one.
        norm: makes a normalisation layer for each convolution (then without bias); None as in the paper.
        region: where the images are, so that padding stays zero; None leaves it as the convolutions make it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        channels: int = 256,
        *,
        extra: int = 1,
        norm: NormLayer | None = None,
        region: ValidRegion | None = None,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.channels = channels
        self.extra = extra
        self.region = region
        self.inner_blocks = nn.ModuleList(_block(width, channels, 1, norm) for width in in_channels)
        self.layer_blocks = nn.ModuleList(_block(channels, channels, 3, norm) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_l, H_l, W_l] finest first to [B, channels, H_l, W_l], then the extra ones of half the side."""
        merged: Tensor | None = None
        pyramid: list[Tensor] = []
        for level in reversed(range(len(maps))):
            lateral = self.inner_blocks[level](maps[level])  # [B, C, H, W]
            if merged is not None:
                lateral = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            merged = self._clear(lateral, level)
            pyramid.insert(0, self._clear(self.layer_blocks[level](merged), level))
        for _ in range(self.extra):
            # Every second cell: a 1×1 window with stride 2 (Lin et al. 2017, footnote 2).
            pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))  # [B, C, ⌈H/2⌉, ⌈W/2⌉]
        return pyramid

    def _clear(self, x: Tensor, level: int) -> Tensor:
        """[B, C, H, W] with zeros in the padding, for the next 3×3 window sees it."""
        mask = None if self.region is None else self.region.mask(x, self.strides[level])
        return x if mask is None else x * mask


def _block(in_channels: int, channels: int, kernel: int, norm: NormLayer | None) -> nn.Sequential:
    conv = Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
    # Uniform with gain 1: no ReLU follows (the initialisation of Detectron's and torchvision's pyramids).
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv) if norm is None else nn.Sequential(conv, norm(channels))
