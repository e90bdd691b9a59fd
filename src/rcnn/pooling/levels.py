"""Which map of a pyramid a RoI is pooled from (Lin et al. 2017, equation 1; SPEC section 7).

Letters: B images, N RoIs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.boxes import area
from rcnn.errors import UserError

# A RoI of exactly the canonical size must not fall a level lower through rounding.
EPSILON = 1e-6


@dataclass(frozen=True)
class LevelRule:
    """RoI of w × h pixels → map of stride 2^k, `k = ⌊canonical_level + log2(√(w·h) / canonical_size)⌋`, clipped.

    Attributes:
        strides: input pixels per pixel of each map, finest first, each twice the one before; or all the same, as in
            torchvision's MobileNet detectors, where the rule then always names the first map.
        canonical_size: side in pixels of the RoI that `canonical_level` is for: ImageNet's 224.
        canonical_level: log2 of that map's stride.

    Raises:
        UserError: the strides are no such sequence of powers of two (a single map may have any stride).
    """

    strides: tuple[float, ...]
    canonical_size: float = 224
    canonical_level: float = 4

    def __post_init__(self) -> None:
        powers = [2.0 ** (math.frexp(self.strides[0])[1] - 1 + i) for i in range(len(self.strides))]
        if len(set(self.strides)) > 1 and list(self.strides) != powers:
            raise UserError(f"strides of a pyramid are powers of two, each twice the one before, not {self.strides}")

    def __call__(self, boxes: Tensor, valid: Tensor) -> Tensor:
        """The number of the map of each of boxes [B, N, 4]: [B, N] int64; -1 where not valid [B, N]."""
        if len(self.strides) == 1:
            return valid.long() - 1
        finest, coarsest = math.log2(self.strides[0]), math.log2(self.strides[-1])
        side = area(boxes.float()).sqrt()  # [B, N] pixels
        level = torch.floor(self.canonical_level + torch.log2(side / self.canonical_size) + EPSILON)
        level = level.nan_to_num(finest).clamp(finest, coarsest) - finest
        return torch.where(valid, level.long(), -1)


def as_strides(strides: Sequence[float]) -> tuple[float, ...]:
    """The strides as a tuple of floats.

    Raises:
        UserError: there is none, or one isn't positive.
    """
    numbers = tuple(float(s) for s in strides)
    if not numbers or min(numbers) <= 0:
        raise UserError(f"strides are one or more positive numbers, finest map first, not {list(strides)}")
    return numbers
