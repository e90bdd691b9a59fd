"""Boxes: areas, overlaps, clipping and the R-CNN box coding, always in float32 (float64 stays, for checks).

A box is `x1 y1 x2 y2` in pixels, continuous, right and bottom exclusive: its width is `x2 - x1`, with no "+1".
Shapes: ... any leading dimensions, N and M boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Deltas of log size are cut here, so that exp() stays finite: a box grows at most 62.5-fold (1000 px from 16 px).
LOG_SIZE_LIMIT = math.log(1000.0 / 16)


def precise(values: Tensor) -> Tensor:
    """The values [...] in float32 at least: as a half type they would be pixels off."""
    return values if values.dtype == torch.float64 else values.float()


def area(boxes: Tensor) -> Tensor:
    """Area in square pixels of boxes [..., 4]: [...]; inside-out boxes count as empty."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by each of boxes a [..., N, 4] with each of b [..., M, 4]: [..., N, M]."""
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])  # [..., N, M, 2]
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes a [..., N, 4] with b [..., M, 4]: [..., N, M] in [0, 1]; 0 for empty boxes."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def covered(a: Tensor, b: Tensor) -> Tensor:
    """Share of each box a [..., N, 4] that lies in each of b [..., M, 4]: [..., N, M] in [0, 1].

    This is the overlap used for crowd and ignore regions, which may hold many objects (COCO's rule).
    """
    own = area(a)[..., :, None]
    return torch.where(own > 0, intersection(a, b) / own.clamp(min=torch.finfo(own.dtype).tiny), 0.0)


def shifted(boxes: Tensor, groups: Tensor, valid: Tensor) -> Tensor:
    """Boxes [B, N, 4], those of each of the `groups` [B, N] moved to where no other's are: torchvision's `batched_nms`.

    It needs no groups then, but far from the origin float32 rounds boxes to hundredths of a pixel, which can decide
    what overlaps too much. As there, an image of more valid [B, N] boxes than 1,000 (25,000 on a GPU) is left alone.
    """
    farthest = torch.where(valid[..., None], boxes, 0.0).amax((1, 2))  # [B]
    offset = groups.to(boxes.dtype) * (farthest + 1)[:, None]  # [B, N]
    few = valid.sum(1) <= (1000 if boxes.device.type == "cpu" else 25_000)  # [B]
    return boxes + (offset * few[:, None])[..., None]


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, N, 4] cut to images of `sizes` [B, 2] (height, width in pixels): [B, N, 4]."""
    limit = sizes.to(boxes.dtype).flip(-1).repeat(1, 2)[:, None]  # [B, 1, 4] as w h w h
    return torch.minimum(boxes.clamp(min=0), limit)


def grown(boxes: Tensor, pixels: float) -> Tensor:
    """Boxes [..., 4] with right and bottom moved out by `pixels`: with 1, boxes whose last pixels were named."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] + pixels), -1) if pixels else boxes


@dataclass(frozen=True)
class BoxCoder:
    """The box coding of the whole family (Girshick et al. 2014, appendix C; Ren et al. 2015, equation 2).

    `tx = wx·(Gx − Px)/Pw, ty = wy·(Gy − Py)/Ph, tw = ww·log(Gw/Pw), th = wh·log(Gh/Ph)` with centres x, y.
    Weights (10, 10, 5, 5) are the classic normalisation by standard deviations (0.1, 0.1, 0.2, 0.2).
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Deltas [..., 4] that carry `references` [..., 4] to `boxes` [..., 4]; both need positive sides."""
        boxes, references = precise(boxes), precise(references)
        size = references[..., 2:] - references[..., :2]
        target = boxes[..., 2:] - boxes[..., :2]
        shift = (boxes[..., :2] + boxes[..., 2:] - references[..., :2] - references[..., 2:]) * 0.5 / size
        wx, wy, ww, wh = self.weights
        log_size = torch.log(target / size)
        return torch.stack((shift[..., 0] * wx, shift[..., 1] * wy, log_size[..., 0] * ww, log_size[..., 1] * wh), -1)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Boxes [..., 4] that `deltas` [..., 4] make of `references` [..., 4], growing by at most `LOG_SIZE_LIMIT`."""
        references = precise(references)
        # Numbers, not a tensor of them: that would be copied to the GPU each time, and waited for.
        scaled = [delta / weight for delta, weight in zip(precise(deltas).unbind(-1), self.weights, strict=True)]
        shift, log_size = torch.stack(scaled[:2], -1), torch.stack(scaled[2:], -1)
        size = references[..., 2:] - references[..., :2]
        centre = (references[..., :2] + references[..., 2:]) * 0.5 + shift * size
        half = 0.5 * size * torch.exp(log_size.clamp(max=LOG_SIZE_LIMIT))
        return torch.cat((centre - half, centre + half), -1)
