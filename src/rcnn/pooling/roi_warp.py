"""RoI warping as a module: a fixed grid of bilinear samples, then max pooling (Dai, He and Sun 2016, section 3.3).

Unlike the other ways of pooling it has a gradient with respect to the RoI's coordinates. Letters: B images, N RoIs,
C channels, P pooled side, S samples a side.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rcnn import kernels
from rcnn.errors import UserError
from rcnn.pooling.levels import LevelRule, as_strides


class RoIWarp(nn.Module):
    """Pools each RoI to [C, P, P] from the map of its level by the maximum of each bin's samples.

    Args:
        size: P, the pooled side in bins.
        strides: input pixels per pixel of each map to pool from, finest first.
        samples: samples of a bin along each axis, at least 1.
        canonical_size: side in pixels of the RoI that `canonical_level` is for.
        canonical_level: log2 of the stride of that RoI's map.

    Raises:
        UserError: the strides aren't positive, or not those of a pyramid; the number of samples isn't fixed.
    """

    def __init__(
        self,
        size: int,
        strides: Sequence[float],
        *,
        samples: int = 2,
        canonical_size: float = 224,
        canonical_level: float = 4,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise UserError(f"model.pool.sampling_ratio = {samples}: RoI warping has a fixed grid; expected 1 or more")
        self.size, self.samples = size, samples
        self.strides = as_strides(strides)
        self.level = LevelRule(self.strides, canonical_size, canonical_level)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor, scales: Tensor | None = None) -> Tensor:
        """Pools boxes [B, N, 4] (pixels) of maps [B, C, H, W]: [B, N, C, P, P], zeros where not valid [B, N].

        `scales` [B, N] says which map a box is pooled from where the maps are one layer's of an image at several
        sizes, as of `choose_scales`; else the level rule does.
        """
        strides = self.strides if scales is None else self.strides[:1] * len(features)
        levels = self.level(boxes.detach(), valid) if scales is None else scales
        side = self.size * self.samples
        warped = kernels.roi_warp(features[: len(strides)], boxes, levels, strides=strides, size=side)
        pooled = F.max_pool2d(warped.flatten(0, 1), self.samples)  # [B·N, C, P, P]
        return pooled.unflatten(0, levels.shape)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"size={self.size}, strides={self.strides}, samples={self.samples}"
