"""Masks put back into the image: the small grid of a detection, interpolated over its box (He et al. 2017, section 3.1:
"resized to the RoI size, and binarized at a threshold of 0.5").

Letters: D masks, M cells along a mask's side, H W height and width of the image, R runs.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.forms import array_form


def paste(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], *, threshold: float = 0.5) -> list[np.ndarray]:
    """Which pixels of an image belong to each mask, as run lengths (see `rcnn.rle`); none is drawn as a whole.

    The centres of the M × M cells are spread evenly over the box; between them the value of a pixel's centre is
    bilinear, and falls to 0 over half a cell beyond the outermost ones, so that nothing is rounded to pixels.

    Args:
        masks: [D, M, M] float32.
        boxes: [D, 4] float32 x1 y1 x2 y2 in pixels of the image; may reach outside it.
        size: H and W.
        threshold: a pixel of at least this value, which is above 0, is on.

    Returns:
        D arrays of runs, int64 [R].
    """
    masks = np.ascontiguousarray(masks, np.float32)
    return array_form().paste(masks, np.ascontiguousarray(boxes, np.float32), size, threshold)
