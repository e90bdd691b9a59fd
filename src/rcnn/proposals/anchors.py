"""Anchors: boxes of fixed sizes and shapes at every place of a feature map (Ren et al. 2015, section 3.1.1).

Letters: B images, k anchors a place, A anchors in all (places of every map × k), H W a map's height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rcnn.errors import UserError


@dataclass(frozen=True)
class AnchorOptions:
    """How anchors are laid out. Sizes are side lengths in pixels of the network's input, ratios are height / width.

    Attributes:
        sizes: square roots of the areas; one tuple for each feature map, or a single tuple used on every map.
        ratios: heights over widths.
        centre: where in its cell of `stride` pixels an anchor is centred: 0.5 its middle, 0.0 its corner
            (torchvision's and Detectron2's convention).
        step: how far apart places lie: "stride" pixels of each map; "torchvision" divides the padded image by the
            map's places and cuts the fraction off (13 places along 800 pixels lie 61 apart, not 64).
        padding: whether places in the padding have anchors, too (torchvision, Detectron2); their boxes are cut at the
            image's edge. An image's proposals then depend on what it is padded to.
        rounding: "none"; "caffe" rounds the sides of a 16-pixel base and multiplies them (py-faster-rcnn: 184×96
            instead of 181×91); "torchvision" rounds half sides.
    """

    sizes: tuple[tuple[float, ...], ...] = ((128.0, 256.0, 512.0),)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    centre: float = 0.5
    step: Literal["stride", "torchvision"] = "stride"
    padding: bool = False
    rounding: Literal["none", "caffe", "torchvision"] = "none"


class Anchors(nn.Module):
    """Makes the anchors of feature maps with the given strides (pixels of the input a step of each map).

    Attributes:
        cells: [L, k, 4] the anchors of one place of each map as offsets from its centre; goes along to the model's
            device, so that no step copies it there, and is saved with no weights.
    """

    cells: Tensor

    def __init__(self, options: AnchorOptions, strides: Sequence[int]) -> None:
        super().__init__()
        sizes = options.sizes * len(strides) if len(options.sizes) == 1 else options.sizes
        if len(sizes) != len(strides):
            raise UserError(
                f"model.anchors.sizes: expected one list for each of the {len(strides)} feature maps, or one for all,"
                f" got {len(sizes)}"
            )
        if len({len(level) for level in sizes}) > 1:
            raise UserError(
                "model.anchors.sizes: expected as many sizes for each feature map, since all share one network, got "
                + ", ".join(str(len(level)) for level in sizes)
            )
        self.options = options
        self.strides = tuple(strides)
        self.per_place = len(sizes[0]) * len(options.ratios)
        cells = torch.tensor([_cell(level, options) for level in sizes], dtype=torch.float32)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Anchors of maps of `shapes` (height, width): for each [H·W·k, 4], places row by row, anchors innermost."""
        levels, device = [], self.cells.device
        padded = [side * self.strides[0] for side in shapes[0]]  # of which the finest stride is a whole part
        for (height, width), stride, cell in zip(shapes, self.strides, self.cells, strict=True):
            down, right = stride, stride
            if self.options.step == "torchvision":
                down, right = padded[0] // height, padded[1] // width
            x = (torch.arange(width, device=device) + self.options.centre) * right
            y = (torch.arange(height, device=device) + self.options.centre) * down
            centres = torch.stack((x.repeat(height), y.repeat_interleave(width)), 1)  # [H·W, 2]
            levels.append((centres.repeat(1, 2)[:, None] + cell).reshape(-1, 4))  # [H·W·k, 4]
        return levels

    def eligible(self, shapes: Sequence[tuple[int, int]], sizes: Tensor) -> Tensor:
        """[B, A] bool: anchors whose cell begins inside the true image `sizes` [B, 2]; the padding has none unless
        the options give it some.
        """
        if self.options.padding:
            places = sum(height * width for height, width in shapes)
            return torch.ones(len(sizes), places * self.per_place, dtype=torch.bool, device=sizes.device)
        levels = []
        for (height, width), stride in zip(shapes, self.strides, strict=True):
            rows = torch.arange(height, device=sizes.device) * stride < sizes[:, :1]  # [B, H]
            columns = torch.arange(width, device=sizes.device) * stride < sizes[:, 1:]  # [B, W]
            places = (rows[:, :, None] & columns[:, None, :]).flatten(1)  # [B, H·W]
            levels.append(places.repeat_interleave(self.per_place, dim=1))
        return torch.cat(levels, 1)

    def fit(self, sizes: Tensor, border: float = 0.0) -> Tensor:
        """[N] bool: whether images of `sizes` [N, 2] have any anchor that `inside` would keep."""
        sizes = sizes.double().cpu()
        found = torch.zeros(len(sizes), dtype=torch.bool)
        for stride, cell in zip(self.strides, self.cells.double().cpu(), strict=True):
            fits = torch.ones(len(sizes), len(cell), dtype=torch.bool)  # [N, k]
            for length, half in ((sizes[:, :1], cell[:, 3]), (sizes[:, 1:], cell[:, 2])):
                first = torch.ceil((half - border) / stride - self.options.centre).clamp(min=0)  # [k] place, from 0
                fits &= (first * stride < length) & ((first + self.options.centre) * stride + half <= length + border)
            found |= fits.any(1)
        return found


def inside(anchors: Tensor, sizes: Tensor, border: float = 0.0) -> Tensor:
    """[B, A] bool: anchors [A, 4] that cross the edge of the images `sizes` [B, 2] by at most `border` pixels."""
    height, width = sizes[:, :1], sizes[:, 1:]
    x1, y1, x2, y2 = anchors.unbind(-1)
    return (x1 >= -border) & (y1 >= -border) & (x2 <= width + border) & (y2 <= height + border)


def _cell(sizes: tuple[float, ...], options: AnchorOptions) -> list[tuple[float, float, float, float]]:
    """The k anchors of one place as offsets x1 y1 x2 y2 from its centre, ratios outermost."""
    cell = []
    for ratio in options.ratios:
        for size in sizes:
            width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
            if options.rounding == "caffe":
                base = round(16.0 / math.sqrt(ratio))
                width, height = base * size / 16.0, round(base * ratio) * size / 16.0
            half_width, half_height = width / 2, height / 2
            if options.rounding == "torchvision":
                half_width, half_height = round(half_width), round(half_height)
            cell.append((-half_width, -half_height, half_width, half_height))
    return cell
