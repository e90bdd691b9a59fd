"""Masks put back in plain torch: every pixel of a few masks at once, as a product of the mask with the weights of its
cells in each row and column.

Letters: D masks, M cells along a mask's side, H W height and width of the image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn import rle

# Pixels of all masks that are drawn at once, which bounds the memory for crowds.
_PIXELS_AT_ONCE = 1 << 24


def paste(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float) -> list[np.ndarray]:
    """Run lengths of masks [D, M, M] in boxes [D, 4]; see `rcnn.kernels.paste`."""
    height, width = size
    at_once = max(1, _PIXELS_AT_ONCE // (height * width))
    runs = []
    for part, corners in zip(
        torch.from_numpy(masks).split(at_once), torch.from_numpy(boxes).split(at_once), strict=True
    ):
        rows = _weights(corners[:, 1], corners[:, 3], height, part.shape[1])
        columns = _weights(corners[:, 0], corners[:, 2], width, part.shape[2])
        values = rows @ part @ columns.mT  # [d, H, W]
        runs += [rle.encode(mask) for mask in (values >= threshold).numpy()]
    return runs


def _weights(start: Tensor, end: Tensor, extent: int, cells: int) -> Tensor:
    """The share of each cell in each pixel along an axis: [D, extent, M]; 0 where a box `start` … `end` is empty."""
    centres = torch.arange(extent) + 0.5
    solid = end > start
    at = (centres - start[:, None]) / torch.where(solid, end - start, 1.0)[:, None] * cells - 0.5  # [D, extent] cells
    shares = (1 - (at[..., None] - torch.arange(cells)).abs()).clamp(min=0)
    return shares * solid[:, None, None]
