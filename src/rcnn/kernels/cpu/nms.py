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
BLOCK = 256


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
    zero = np.float32(0)
    first = np.cumsum(sizes) - sizes  # where the kept boxes of each group start
    end = first.copy()  # and end
    kept = np.empty((5, len(boxes)), np.float32)  # x1, y1, x2, y2, area
    found = 0
    for i in range(len(boxes)):
        if found == len(index):
            break
        g = groups[i]
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = max(x2 - x1, zero) * max(y2 - y1, zero)
        if not _overlaps(x1, y1, x2, y2, area, kept, first[g], end[g], threshold):
            k = end[g]
            kept[0, k], kept[1, k], kept[2, k], kept[3, k], kept[4, k] = x1, y1, x2, y2, area
            end[g] += 1
            index[found] = order[i]
            found += 1
    count[0] = found


@kernel()
def _overlaps(
    x1: np.float32,
    y1: np.float32,
    x2: np.float32,
    y2: np.float32,
    area: np.float32,
    kept: np.ndarray,  # [5, n]
    first: int,
    end: int,
    threshold: np.float32,
) -> bool:
    """Whether the IoU of a box with any of the kept boxes `first` … `end` - 1 exceeds the threshold."""
    zero = np.float32(0)
    for start in range(first, end, BLOCK):
        stop = min(start + BLOCK, end)
        # Slices, as an index counted from 0 needs no check for being negative, without which the loop vectorises.
        left, top, right, bottom = kept[0, start:stop], kept[1, start:stop], kept[2, start:stop], kept[3, start:stop]
        areas = kept[4, start:stop]
        hits = 0
        for k in range(stop - start):
            width = max(min(x2, right[k]) - max(x1, left[k]), zero)
            height = max(min(y2, bottom[k]) - max(y1, top[k]), zero)
            shared = width * height
            hits += np.int32(shared / (area + areas[k] - shared) > threshold)
        if hits > 0:
            return True
    return False
