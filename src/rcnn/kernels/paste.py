"""Masks put back into the image: the small grid of a detection, interpolated over its box (He et al. 2017, section 3.1:
"resized to the RoI size, and binarized at a threshold of 0.5").

Letters: D masks, M cells along a mask's side, H W height and width of the image, R runs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rcnn.kernels.forms import array_form

PasteRule = Literal["exact", "torchvision"]


def paste(
    masks: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    rule: PasteRule = "exact",
) -> list[np.ndarray]:
    """Which pixels of an image belong to each mask, as run lengths (see `rcnn.rle`); none is drawn as a whole.

    The centres of the M × M cells are spread evenly over the box; between them the value of a pixel's centre is
    bilinear, and falls to 0 over half a cell beyond the outermost ones, so that nothing is rounded to pixels.

    Args:
        masks: [D, M, M] float32.
        boxes: [D, 4] float32 x1 y1 x2 y2 in pixels of the image; may reach outside it.
        size: H and W.
        threshold: a pixel of at least this value, which is above 0, is on.
        rule: "exact" is the above; "torchvision" widens box and mask by a cell on each side and lets the box begin and
            end at whole pixels, as its detectors do, so that a mask may lie half a pixel off.

    Returns:
        D arrays of runs, int64 [R].
    """
    masks, boxes = np.ascontiguousarray(masks, np.float32), np.ascontiguousarray(boxes, np.float32)
    if rule == "torchvision":
        masks, boxes = _at_whole_pixels(masks, boxes)
    return array_form().paste(masks, boxes, size, threshold)


def _at_whole_pixels(masks: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks [D, M + 2, M + 2] and boxes [D, 4] of which `paste` makes what torchvision does of masks [D, M, M].

    Each corner is cut to its whole part, and the box then ends one pixel later.
    """
    cells = masks.shape[-1]
    scale = np.float32((cells + 2) / cells)
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * scale
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    first, last = np.trunc(centre - half), np.trunc(centre + half)
    widened = np.concatenate((first, np.maximum(last + 1, first + 1)), 1).astype(np.float32)
    return np.pad(masks, ((0, 0), (1, 1), (1, 1))), widened
