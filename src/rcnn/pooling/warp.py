"""Warping: R-CNN's way from a region of any shape to the square that a classifier wants (Girshick et al. 2014,
appendix A).

Three warps differ in what becomes of the region's aspect. All may add context: a border around the region whose width
is measured in the warped frame, so that it is the same share of every crop. Letters: R regions, H W height and width
of the image, S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rcnn import boxes as box_ops
from rcnn import kernels
from rcnn.errors import UserError

# R-CNN's context: 16 pixels of 227.
CONTEXT_SHARE = 16 / 227


@dataclass(frozen=True)
class WarpOptions:
    """How a region becomes a crop.

    Attributes:
        kind: "anisotropic" stretches the region to the square; "isotropic" takes the tightest square around it, image
            content outside the region included; "isotropic-cut" takes that square too, but shows the region alone.
        size: S, the side of a crop in pixels.
        context: width of the border around the region, in pixels of the crop; None is R-CNN's share, 16 of 227.
        fill: what stands where there is nothing to show: the mean colour that the backbone's weights subtract
            ("image-mean"), or the mean of the region's own pixels ("box-mean").
    """

    kind: Literal["anisotropic", "isotropic", "isotropic-cut"] = "anisotropic"
    size: int = 227
    context: int | None = None
    fill: Literal["image-mean", "box-mean"] = "image-mean"

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.border < self.size:
            raise UserError(f"model.warp.context = {self.border}: expected less than half of the size, {self.size}")

    @property
    def border(self) -> int:
        """The context in pixels of the crop."""
        return round(self.size * CONTEXT_SHARE) if self.context is None else self.context


class Warp(nn.Module):
    """Cuts regions out of an image and brings them to one size; the settings are those of `WarpOptions`."""

    def __init__(self, options: WarpOptions) -> None:
        super().__init__()
        self.options = options

    def forward(self, pixels: Tensor, boxes: Tensor, mean: Tensor) -> Tensor:
        """Crops of an image.

        Args:
            pixels: [3, H, W] uint8 RGB, without padding.
            boxes: [R, 4] pixels.
            mean: [3] RGB 0–255, the colour of "image-mean".

        Returns:
            [R, 3, S, S] uint8, channels-last.
        """
        options = self.options
        windows = context_windows(boxes.float(), options)
        sizes = torch.tensor([pixels.shape[1:]], device=boxes.device)
        shown = boxes if options.kind == "isotropic-cut" else windows
        visible = box_ops.clip(shown.float()[None], sizes)[0]
        if options.fill == "box-mean":
            fill = mean_colours(pixels, boxes, mean)
        else:
            fill = mean.expand(len(boxes), 3)
        return kernels.warp(pixels, windows, visible, fill.round().to(torch.uint8), size=options.size)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return repr(self.options)


def context_windows(boxes: Tensor, options: WarpOptions) -> Tensor:
    """The windows [R, 4] that become crops of boxes [R, 4]: made square if isotropic, then grown by the context.

    A window of the whole crop's side S holds the box in S − 2·context of it.
    """
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    if options.kind != "anisotropic":
        half = half.amax(1, keepdim=True).expand(-1, 2)
    half = half * (options.size / (options.size - 2 * options.border))
    return torch.cat((centre - half, centre + half), 1)


def mean_colours(pixels: Tensor, boxes: Tensor, mean: Tensor) -> Tensor:
    """Mean colour [R, 3] of the pixels [3, H, W] that each of boxes [R, 4] touches; `mean` [3] where it touches none.

    By sums over the image's upper left rectangles, of which each box needs four (Crow 1984).
    """
    height, width = pixels.shape[1:]
    sums = torch.zeros(3, height + 1, width + 1, dtype=torch.int64, device=pixels.device)
    sums[:, 1:, 1:] = pixels.long().cumsum(1).cumsum(2)
    edges = torch.cat((boxes[:, :2].floor(), boxes[:, 2:].ceil()), 1)
    (x1, x2), (y1, y2) = (
        edges[:, axis::2].clamp(min=0, max=side).long().unbind(1) for axis, side in enumerate((width, height))
    )
    total = sums[:, y2, x2] - sums[:, y1, x2] - sums[:, y2, x1] + sums[:, y1, x1]  # [3, R]
    count = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    colours = (total / count.clamp(min=1)).T
    return torch.where(count[:, None] > 0, colours, mean)
