"""Greedy non-maximum suppression with a result of fixed size, for a whole batch and any number of groups at once.

Letters: B images, N boxes, D capacity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.kernels.forms import form


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None = None, *, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Keeps the best-scored boxes that no better kept box of their group overlaps by IoU > `threshold`.

    Args:
        boxes: [B, N, 4] pixels.
        scores: [B, N]; of equal scores the lower index goes first.
        valid: [B, N] bool; others are never kept and suppress nothing.
        groups: [B, N] int64, such as class labels or pyramid levels; boxes of different groups ignore each other.
        threshold: IoU in [0, 1], compared exactly (float32 IoU against this number).
        capacity: the search ends when so many are kept.

    Returns:
        index [B, D] int64 of the kept boxes by descending score (0 past the count), and count [B] int64.
    """
    return torch.ops.rcnn.nms(boxes.detach().float(), scores.detach().float(), valid, groups, threshold, capacity)


torch.library.define(
    "rcnn::nms",
    "(Tensor boxes, Tensor scores, Tensor valid, Tensor? groups, float threshold, SymInt capacity) -> (Tensor, Tensor)",
)


@torch.library.impl("rcnn::nms", "default")
def _nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    return form(boxes.device.type).nms(boxes, scores, valid, groups, threshold, capacity)


@torch.library.register_fake("rcnn::nms")
def _(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    images = boxes.shape[0]
    return boxes.new_empty((images, capacity), dtype=torch.int64), boxes.new_empty(images, dtype=torch.int64)
