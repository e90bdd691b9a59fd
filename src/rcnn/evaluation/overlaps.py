"""Overlaps of boxes in numpy float64, for evaluators that must agree to the last digit with the published ones.

`rcnn.boxes` does the same for tensors in float32; here the devkit's inclusive pixels are a switch. Shapes broadcast:
... any leading dimensions.
"""

from __future__ import annotations

import numpy as np


def areas(boxes: np.ndarray, *, plus_one: bool = False) -> np.ndarray:
    """Areas in square pixels of boxes [..., 4]: [...]; `plus_one` counts the right and bottom pixel as inside."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2] + plus_one, 0)  # [..., 2]
    return sides[..., 0] * sides[..., 1]


def shared_areas(a: np.ndarray, b: np.ndarray, *, plus_one: bool = False) -> np.ndarray:
    """Area in square pixels that boxes a [..., 4] share with boxes b [..., 4], element by element: [...]."""
    corners = np.concatenate((np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])), -1)
    return areas(corners, plus_one=plus_one)


def iou(a: np.ndarray, b: np.ndarray, *, plus_one: bool = False) -> np.ndarray:
    """Intersection over union of boxes a [..., 4] with boxes b [..., 4], element by element: [...] in [0, 1].

    For all pairs of [N, 4] with [M, 4] pass `a[:, None]` and `b[None]`. Two empty boxes overlap by 0.
    """
    shared = shared_areas(a, b, plus_one=plus_one)
    union = areas(a, plus_one=plus_one) + areas(b, plus_one=plus_one) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def covered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of boxes a [..., 4] that lies in boxes b [..., 4], element by element: [...] in [0, 1].

    COCO's overlap with a crowd region, which may hold many objects.
    """
    shared, own = shared_areas(a, b), areas(a) + np.zeros_like(areas(b))
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)
