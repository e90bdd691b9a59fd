"""Spatial pyramid pooling: maps once an image, and from each region of them a vector of one length (He et al. 2014,
sections 2.2 and 4.2).

A region's corners become cells of the map, whose maxima are taken in n × n bins for each level n of a pyramid. Letters:
B images, N RoIs, C channels, S stride of the map, L scales that an image was seen at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn import kernels
from rcnn.errors import UserError


@dataclass(frozen=True)
class SPPOptions:
    """How a region is pooled from a map.

    Attributes:
        levels: bins along a side of each level of the pyramid, most first; None is the side that the backbone's own
            fully connected layers were made for (6 where it has none), 3, 2 and 1.
        corners: which cells a region holds. "paper": from ⌊x1/S⌋ + 1 to ⌈x2/S⌉ − 1, those whose centre (S times their
            index) lies inside. "release": the released code's rounding with its two offsets.
        offsets: of "release", in pixels: where the first cell's centre lies, and how far a region is shrunk on each
            side.
    """

    levels: tuple[int, ...] | None = None
    corners: Literal["paper", "release"] = "paper"
    offsets: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.levels is not None and (not self.levels or min(self.levels) < 1):
            raise UserError(f"model.spp.levels = {list(self.levels)}: expected numbers of bins above 0")


class SpatialPyramidPool(nn.Module):
    """Pools each RoI to a vector of C · (n₁² + n₂² + …) numbers.

    Args:
        levels: n₁, n₂, …, the bins along a side.
        stride: S, input pixels per cell.
        options: see `SPPOptions`, whose `levels` are not looked at.
    """

    def __init__(self, levels: Sequence[int], stride: float, options: SPPOptions) -> None:
        super().__init__()
        self.levels, self.stride, self.options = tuple(levels), stride, options
        self.bins = sum(n * n for n in self.levels)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, scales: Tensor) -> Tensor:
        """Vectors of RoIs, each from the map of its scale.

        Args:
            features: L maps [B, C, H, W] of the same stride.
            boxes: [B, N, 4] pixels of the image at the RoI's scale.
            scales: [B, N] int64, which of the L maps to read; −1 where padded.

        Returns:
            [B, N, C · bins]: level by level, each channel by channel and then row by row; zeros where padded.
        """
        cells = corner_cells(boxes, self.stride, self.options)
        pooled: dict[int, Tensor] = {}
        finest = self.levels[0]
        for n in self.levels:
            if finest in pooled and finest % n == 0:  # a coarse bin is the union of finer ones
                grids = pooled[finest]
                pooled[n] = F.max_pool2d(grids.flatten(0, 1), finest // n).unflatten(0, grids.shape[:2])
            else:
                pooled[n] = kernels.roi_pool(features, cells, scales, strides=[1.0] * len(features), size=n)
        return torch.cat([pooled[n].flatten(2) for n in self.levels], 2)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"levels={self.levels}, stride={self.stride}, corners={self.options.corners!r}"


def corner_cells(boxes: Tensor, stride: float, options: SPPOptions) -> Tensor:
    """First and last cell of boxes [..., 4] along each axis, both of them inside: [..., 4] whole numbers from 0.

    Where no cell's centre lies inside, it is the one cell that the box's middle lies in.
    """
    first, last = boxes[..., :2], boxes[..., 2:]
    if options.corners == "paper":
        low, high = (first / stride).floor() + 1, (last / stride).ceil() - 1
    else:
        start, inset = options.offsets
        # The released code counts cells from 1: its "+ 1" is gone here.
        low = ((first - start + inset) / stride + 0.5).floor()
        high = ((last - start - inset) / stride - 0.5).ceil()
    low = low.clamp(min=0)
    middle = ((first + last) / (2 * stride)).floor().clamp(min=0)
    none = high < low
    return torch.cat((torch.where(none, middle, low), torch.where(none, middle, high)), -1)


def nearest_scale(boxes: Tensor, valid: Tensor, factors: Tensor, target: float = 224.0) -> Tensor:
    """For each RoI the scale at which its area comes closest to `target`² pixels (He et al. 2014, section 4.2).

    Args:
        boxes: [B, N, 4] pixels.
        valid: [B, N] bool.
        factors: [B, L], what the pixels are multiplied by at each scale.

    Returns:
        [B, N] int64 in 0 … L−1, the first of equals; −1 where not valid.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    areas = (width * height)[..., None] * factors[:, None].square()  # [B, N, L]
    return torch.where(valid, (areas - target**2).abs().argmin(-1), -1)
