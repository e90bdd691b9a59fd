"""Warping in plain torch: for each pixel of the crops, the four pixels of the image around it, weighted.

Runs on any device; GPUs use it too, for it is a handful of operators on many regions at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Regions at once, so that the four neighbours of 227 × 227 pixels each stay below a few hundred MB.
_REGIONS_AT_ONCE = 128


def axis_taps(start: Tensor, end: Tensor, low: Tensor, high: Tensor, extent: int, size: int) -> tuple[Tensor, ...]:
    """Along one axis, for the S = `size` pixels of crops `start` … `end` [R]: the lower neighbour [R, S], the upper
    one, the upper one's weight, and whether the centre is inside `low` … `high` [R]."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size
    centre = start[:, None] + steps * (end - start)[:, None]  # [R, S]
    inside = (centre >= low[:, None]) & (centre < high[:, None])
    index = torch.where(inside, centre - 0.5, 0).clamp(0, extent - 1)
    first = index.floor()
    return first.long(), (first.long() + 1).clamp(max=extent - 1), index - first, inside


def warp(pixels: Tensor, windows: Tensor, visible: Tensor, fill: Tensor, size: int) -> Tensor:
    """Crops [R, 3, S, S] of windows [R, 4] of an image [3, H, W]; see `rcnn.kernels.warp`."""
    crops = pixels.new_empty((len(windows), size, size, 3)).permute(0, 3, 1, 2)
    height, width = pixels.shape[1:]
    for first in range(0, len(windows), _REGIONS_AT_ONCE):
        part = slice(first, first + _REGIONS_AT_ONCE)
        (x1, y1, x2, y2), (left, top, right, bottom) = windows[part].unbind(1), visible[part].unbind(1)
        xs, xs_after, x_weight, x_inside = axis_taps(x1, x2, left, right, width, size)  # [r, S]
        ys, ys_after, y_weight, y_inside = axis_taps(y1, y2, top, bottom, height, size)

        def rows(y: Tensor, xs: Tensor = xs, after: Tensor = xs_after, weight: Tensor = x_weight) -> Tensor:
            near, far = (pixels[:, y[:, :, None], x[:, None, :]].float() for x in (xs, after))
            return near + (far - near) * weight[:, None, :]  # [3, r, S, S]

        near, far = rows(ys), rows(ys_after)
        value = ((near + (far - near) * y_weight[:, :, None]) + 0.5).to(torch.uint8)
        inside = y_inside[:, :, None] & x_inside[:, None, :]  # [r, S, S]
        crops[part] = torch.where(inside, value, fill[part].T[:, :, None, None]).transpose(0, 1)
    return crops
