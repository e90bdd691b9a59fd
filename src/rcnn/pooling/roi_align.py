"""RoIAlign as a module: no rounding anywhere (He et al. 2017, section 3).

Letters: B images, N RoIs, C channels, P pooled side, H W height and width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rcnn import kernels
from rcnn.pooling.levels import LevelRule, as_strides


class RoIAlign(nn.Module):
    """Pools each RoI to [C, P, P] from the map of its level by bilinear sampling.

    Args:
        size: P, the pooled side in bins.
        strides: input pixels per pixel of each map to pool from, finest first. Further maps (P6) are left unused.
        sampling_ratio: samples of a bin along each axis; 0 takes about one a pixel.
        aligned: the exact half-pixel convention; false is that of torchvision's COCO checkpoints.
        canonical_size: side in pixels of the RoI that `canonical_level` is for.
        canonical_level: log2 of the stride of that RoI's map.

    Raises:
        UserError: the strides aren't positive, or not those of a pyramid.
    """

    def __init__(
        self,
        size: int,
        strides: Sequence[float],
        *,
        sampling_ratio: int = 2,
        aligned: bool = True,
        canonical_size: float = 224,
        canonical_level: float = 4,
    ) -> None:
        super().__init__()
        self.size, self.sampling_ratio, self.aligned = size, sampling_ratio, aligned
        self.strides = as_strides(strides)
        self.level = LevelRule(self.strides, canonical_size, canonical_level)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor, scales: Tensor | None = None) -> Tensor:
        """Pools boxes [B, N, 4] (pixels) of maps [B, C, H, W]: [B, N, C, P, P], zeros where not valid [B, N].

        `scales` [B, N] says which map a box is pooled from where the maps are one layer's of an image at several
        sizes, as of `choose_scales`; else the level rule does.
        """
        strides = self.strides if scales is None else self.strides[:1] * len(features)
        return kernels.roi_align(
            features[: len(strides)],
            boxes,
            self.level(boxes, valid) if scales is None else scales,
            strides=strides,
            size=self.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"size={self.size}, strides={self.strides}, sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
