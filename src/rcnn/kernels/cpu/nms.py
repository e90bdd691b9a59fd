"""Non-maximum suppression on the CPU: each box, by descending score, is held against the kept boxes of its group.

The kept boxes of a group lie side by side, coordinate by coordinate, so that one comparison takes a whole vector of
them, and the search stops as soon as the capacity is reached.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.threads import kernel, run

# Kept boxes compared between two looks whether one has hit.
BLOCK = 128


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Kept boxes of boxes [B, N, 4]: index [B, capacity] and count [B]; see `rcnn.kernels.nms`."""
    index = torch.zeros((len(boxes), capacity), dtype=torch.int64)
    count = torch.zeros(len(boxes), dtype=torch.int64)
    limit = np.float32(threshold)
    if float(limit) > threshold:  # so that IoU > limit in float32 says the same as IoU > threshold
        limit = np.nextafter(limit, np.float32(-1))
    tasks = []
    for b in range(len(boxes)):
        candidates = valid[b].nonzero()[:, 0]
        order = candidates[scores[b, candidates].argsort(descending=True, stable=True)]
        group, sizes = _compact(None if groups is None else groups[b, order].numpy(), len(order))
        sorted_boxes = boxes[b, order].contiguous().numpy()
        tasks.append((_suppress, sorted_boxes, order.numpy(), group, sizes, limit, index[b].numpy(), count[b:].numpy()))
    run(tasks)
    return index, count


def _compact(groups: np.ndarray | None, boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups [n] renumbered from 0, and how many boxes each has."""
    if groups is None or boxes == 0:
        return np.zeros(boxes, np.int64), np.full(1, boxes)
    groups = groups - groups.min()
    if groups.max() > 4 * boxes + 1024:
        groups = np.unique(groups, return_inverse=True)[1]
    return groups, np.bincount(groups)


@kernel()
def _suppress(
    boxes: np.ndarray,  # [n, 4] by descending score
    order: np.ndarray,  # [n] their numbers
    groups: np.ndarray,  # [n]
    sizes: np.ndarray,  # [groups] boxes in each
    threshold: np.float32,
    index: np.ndarray,  # [capacity], filled
    count: np.ndarray,  # [1…], the first is filled
) -> None:
    first = np.cumsum(sizes) - sizes  # where the kept boxes of each group start
    kept = np.zeros(len(sizes), np.int64)
    x1, y1, x2, y2, area = np.empty((5, len(boxes)), np.float32)
    found = 0
    for i in range(len(boxes)):
        if found == len(index):
            break
        g = groups[i]
        start, end = first[g], first[g] + kept[g]
        if _overlaps(boxes[i], x1[start:end], y1[start:end], x2[start:end], y2[start:end], area[start:end], threshold):
            continue
        x1[end], y1[end], x2[end], y2[end] = boxes[i]
        area[end] = max(x2[end] - x1[end], np.float32(0)) * max(y2[end] - y1[end], np.float32(0))
        kept[g] += 1
        index[found] = order[i]
        found += 1
    count[0] = found


@kernel()
def _overlaps(
    box: np.ndarray,
    x1: np.ndarray,
    y1: np.ndarray,
    x2: np.ndarray,
    y2: np.ndarray,
    area: np.ndarray,
    threshold: np.float32,
) -> bool:
    """Whether the IoU of `box` [4] with any of the boxes of `area` [n] exceeds the threshold."""
    zero = np.float32(0)
    left, top, right, bottom = box
    own = max(right - left, zero) * max(bottom - top, zero)
    for start in range(0, len(area), BLOCK):
        hits = 0
        for k in range(start, min(start + BLOCK, len(area))):
            width = max(min(right, x2[k]) - max(left, x1[k]), zero)
            height = max(min(bottom, y2[k]) - max(top, y1[k]), zero)
            shared = width * height
            hits += shared / (own + area[k] - shared) > threshold
        if hits:
            return True
    return False
