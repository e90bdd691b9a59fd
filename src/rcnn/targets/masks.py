"""Mask targets, cut for each RoI when they are needed (He et al. 2017, section 3.1: "the intersection between an RoI
and its associated ground-truth mask").

No mask is ever drawn: how much of a stretch of a column is on follows from its run lengths, by one search for each end.
Letters: B images, P RoIs, G ground truths, M cells along a target's side, T columns looked at, R runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rcnn.structures import Masks
from rcnn.targets.sample import take

# Columns that are looked at in each cell. Along a column the share is exact, fractions of a pixel included.
COLUMNS = 4


def cut(masks: Masks, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """How much of each cell of a grid over a RoI its object covers.

    Args:
        masks: of the objects.
        boxes: [B, P, 4] pixels of the network's input.
        matched: [B, P] int64, the object of each RoI.
        size: M.

    Returns:
        [B, P, M, M] float32 in [0, 1], rows first; 0 for objects without a mask and outside what is to be
        seen of the annotated image.
    """
    height = masks.sizes[:, None, 0, None]  # [B, 1, 1]
    left, top, right, bottom = masks.windows[:, None, None].unbind(-1)  # [B, 1, 1]
    start = take(masks.start, matched)[..., None]  # [B, P, 1]
    lines = torch.arange(size + 1, device=boxes.device) / size  # [M + 1]
    places = (torch.arange(size * COLUMNS, device=boxes.device) + 0.5) / (size * COLUMNS)  # [T]
    xs = _along(boxes, masks.frames, 0, places)  # [B, P, T] pixels of the annotated image
    ys = _along(boxes, masks.frames, 1, lines)  # [B, P, M + 1]
    inside = (xs >= left) & (xs < right) & (start >= 0)
    first = torch.where(inside, start + xs.long() * height, 0)  # [B, P, T] each column's first pixel

    clipped = ys.maximum(top).minimum(bottom)
    row = clipped.long()
    below, fraction = _on_before(masks, first[..., None, :] + row[..., None])  # [B, P, M + 1, T]
    pixels = below.diff(dim=2).float() + (fraction * (clipped - row)[..., None]).diff(dim=2)
    share = pixels / ys.diff(dim=2)[..., None]  # [B, P, M, T]
    share = torch.where(inside[..., None, :], share, 0.0)
    return share.unflatten(3, (size, COLUMNS)).mean(-1).nan_to_num(0.0).clamp(0, 1)


def cut_aligned(masks: Masks, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """What RoIAlign, without half-pixel shift and with a sample a pixel, reads of each RoI's mask once that is resized
    to the image in the network by its nearest pixels: torchvision's targets. The arguments and the result
    [B, P, size, size] are `cut`'s.

    Each mask is drawn as far as its RoI reaches, one after the other, which takes longer than `cut`.
    """
    goals = boxes.new_zeros(*matched.shape, size, size)
    for b, p in (take(masks.start, matched) >= 0).nonzero().tolist():
        x1, y1, x2, y2 = boxes[b, p].tolist()
        columns, to_columns = _read(masks, b, 0, x1, x2, size)
        rows, to_rows = _read(masks, b, 1, y1, y2, size)
        place = masks.start[b, matched[b, p]] + columns * masks.sizes[b, 0] + rows[:, None]  # [h, w]
        _, on = _on_before(masks, place.clamp(min=0))
        seen = (columns >= 0) & (rows[:, None] >= 0)
        goals[b, p] = to_rows @ (on * seen) @ to_columns.T
    return goals


def _read(masks: Masks, b: int, axis: int, low: float, high: float, size: int) -> tuple[Tensor, Tensor]:
    """What a RoI from `low` to `high` along an axis reads of an image b.

    Returns:
        the pixels [n] of the annotated image that those of the network show, −1 where there is none, and how much of
        each the M cells read on average, [M, n].
    """
    scale, shift = masks.frames[b, axis].item(), masks.frames[b, axis + 2].item()
    start, end = masks.windows[b, axis].item(), masks.windows[b, axis + 2].item()
    extent = round((end - start) / abs(scale))
    length = max(high - low, 1.0)
    samples = math.ceil(length / size)
    device = masks.ends.device
    at = low + (torch.arange(size * samples, device=device) + 0.5) * (length / (size * samples))  # [M·samples]
    inside = (at >= -1) & (at <= extent)
    at = at.clamp(0, extent - 1)
    first, last = int(at[0]), min(int(at[-1]) + 1, extent - 1)
    pixels = torch.arange(first, last + 1, device=device)
    hat = (1 - (at[:, None] - pixels).abs()).clamp(min=0) * inside[:, None]  # [M·samples, n]
    shown = pixels * scale + shift
    shown = shown.floor() if scale > 0 else shown.ceil() - 1
    shown = torch.where((shown >= start) & (shown < end), shown, -1.0).long()
    return shown, hat.unflatten(0, (size, samples)).mean(1)


def _along(boxes: Tensor, frames: Tensor, axis: int, places: Tensor) -> Tensor:
    """Where `places` [N] of a box's extent along an axis lie in the annotated image: [B, P, N]."""
    low, high = boxes[..., axis, None], boxes[..., axis + 2, None]  # [B, P, 1]
    scale, shift = frames[:, axis, None, None], frames[:, axis + 2, None, None]
    return scale * (low + (high - low) * places) + shift


def _on_before(masks: Masks, position: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels that are on before each position [...], int64, and whether the one there is, as float32."""
    run = torch.searchsorted(masks.ends, position, right=True).clamp(max=masks.ends.shape[0] - 1)
    on = masks.on[run]
    return masks.area[run] - torch.where(on, masks.ends[run] - position, 0), on.float()
