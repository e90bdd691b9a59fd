"""RoI max pooling as a module (Girshick 2015, section 2.1): one-level SPP with rounded bins.

Letters: B images, N RoIs, C channels, P pooled side, H W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rcnn import kernels
from rcnn.pooling.levels import LevelRule, as_strides


class RoIPool(nn.Module):
    """Pools each RoI to [C, P, P] from the map of its level by the maximum of each bin.

    Args:
        size: P, the pooled side in bins: 7 for VGG16, 6 for the S and M nets.
        strides: input pixels per pixel of each map to pool from, finest first; the family's classics have one, 16.
        canonical_size: side in pixels of the RoI that `canonical_level` is for.
        canonical_level: log2 of the stride of that RoI's map.

    Raises:
        UserError: the strides aren't positive, or not those of a pyramid.
    """

    def __init__(
        self, size: int, strides: Sequence[float], *, canonical_size: float = 224, canonical_level: float = 4
    ) -> None:
        super().__init__()
        self.size = size
        self.strides = as_strides(strides)
        self.level = LevelRule(self.strides, canonical_size, canonical_level)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor, scales: Tensor | None = None) -> Tensor:
        """Pools boxes [B, N, 4] (pixels) of maps [B, C, H, W]: [B, N, C, P, P], zeros where not valid [B, N].

        `scales` [B, N] says which map a box is pooled from where the maps are one layer's of an image at several
        sizes, as of `choose_scales`; else the level rule does.
        """
        strides = self.strides if scales is None else self.strides[:1] * len(features)
        levels = self.level(boxes, valid) if scales is None else scales
        return kernels.roi_pool(features[: len(strides)], boxes, levels, strides=strides, size=self.size)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"size={self.size}, strides={self.strides}"
