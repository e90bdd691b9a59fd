"""Non-maximum suppression as the definition reads: take the best box that is left, drop what overlaps it, repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.boxes import iou


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Kept boxes of boxes [B, N, 4]: index [B, capacity] and count [B]; see `rcnn.kernels.nms`."""
    index = torch.zeros((len(boxes), capacity), dtype=torch.int64, device=boxes.device)
    count = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for b in range(len(boxes)):
        order = scores[b].argsort(descending=True, stable=True)
        left = order[valid[b, order]]
        kept = []
        while len(left) and len(kept) < capacity:
            best, left = left[0], left[1:]
            kept.append(best)
            overlaps = iou(boxes[b, best, None], boxes[b, left])[0].double() > threshold
            if groups is not None:
                overlaps &= groups[b, left] == groups[b, best]
            left = left[~overlaps]
        if kept:
            index[b, : len(kept)] = torch.stack(kept)
            count[b] = len(kept)
    return index, count
