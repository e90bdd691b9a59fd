"""Matching on the CPU in two passes over blocks of boxes that stay in the cache.

The first pass finds each box's best truth, and for each block the highest IoU that each truth has in it. The second
goes only to the blocks that hold a truth's highest IoU of all, to mark the boxes that tie with it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.threads import kernel, run, spans

BLOCK = 512


def match(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Best truth of boxes [B, A, 4]: overlap, index and best, each [B, A]; see `rcnn.kernels.match`."""
    shape = (truth.shape[0], boxes.shape[1])
    overlap, index = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64)
    best = torch.zeros(shape, dtype=torch.bool)
    first, second = [], []
    for b in range(shape[0]):
        box = boxes[b % len(boxes)].contiguous().numpy()
        numbers = real[b].nonzero()[:, 0]
        if len(numbers) == 0 or len(box) == 0:
            continue
        allowed = np.ones(0, np.bool_) if eligible is None else eligible[b].contiguous().numpy()
        data = (box, truth[b, numbers].contiguous().numpy(), allowed)
        blocks = -(-len(box) // BLOCK)
        peaks = np.zeros((blocks, len(numbers)), np.int32)
        outputs = (overlap[b].numpy(), index[b].numpy())
        first += [(_best_truths, *data, numbers.numpy(), peaks, *outputs, *span) for span in spans(blocks, least=16)]
        second.append((_best_boxes, *data, peaks, best[b].numpy()))
    run(first)
    run(second)
    return overlap, index, best


@kernel()
def _block_ious(corners: np.ndarray, truth: np.ndarray, ious: np.ndarray) -> np.int32:
    """Fills ious [BLOCK] with those of corners [5, BLOCK] and truth [4]; returns the highest as its float32 bits.

    The bits of numbers ≥ 0 are in the order of the numbers, and a maximum of integers vectorises, of floats not.
    """
    zero, tiny = np.float32(0), np.float32(1.17549435e-38)
    left, top, right, bottom = truth[0], truth[1], truth[2], truth[3]
    own = max(right - left, zero) * max(bottom - top, zero)
    for k in range(BLOCK):
        width = max(min(right, corners[2, k]) - max(left, corners[0, k]), zero)
        height = max(min(bottom, corners[3, k]) - max(top, corners[1, k]), zero)
        shared = width * height
        ious[k] = shared / max(corners[4, k] + own - shared, tiny)
    highest = np.int32(0)
    bits = ious.view(np.int32)
    for k in range(BLOCK):
        highest = max(highest, bits[k])
    return highest


@kernel()
def _load(boxes: np.ndarray, allowed: np.ndarray, block: int, corners: np.ndarray) -> int:
    """Fills corners [5, BLOCK] with x1, y1, x2, y2 and area of a block of boxes [A, 4]; returns how many it holds.

    Boxes that aren't allowed [A] are zeros, and so overlap nothing.
    """
    zero = np.float32(0)
    start, end = block * BLOCK, min((block + 1) * BLOCK, len(boxes))
    corners[:] = zero
    for k in range(end - start):
        if len(allowed) == 0 or allowed[start + k]:
            x1, y1, x2, y2 = boxes[start + k]
            corners[0, k], corners[1, k], corners[2, k], corners[3, k] = x1, y1, x2, y2
            corners[4, k] = max(x2 - x1, zero) * max(y2 - y1, zero)
    return end - start


@kernel()
def _best_truths(
    boxes: np.ndarray,  # [A, 4]
    truths: np.ndarray,  # [G, 4], all real
    allowed: np.ndarray,  # [A], or [0] where all boxes are
    numbers: np.ndarray,  # [G], which truths these are for the caller
    peaks: np.ndarray,  # [blocks, G], filled: the highest IoU of each truth in each block, as bits
    overlap: np.ndarray,  # [A], filled
    index: np.ndarray,  # [A], filled
    first: int,
    last: int,
) -> None:
    """Finds the best truth of each box of the blocks `first` … `last` - 1."""
    corners, ious = np.empty((5, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    highest, which = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    for block in range(first, last):
        held = _load(boxes, allowed, block, corners)
        highest[:] = np.float32(0)
        which[:] = 0
        for g in range(len(truths)):
            peaks[block, g] = _block_ious(corners, truths[g], ious)
            if peaks[block, g] > 0:
                _take_higher(ious, np.int32(g), highest, which)
        for k in range(held):
            overlap[block * BLOCK + k] = highest[k]
            index[block * BLOCK + k] = numbers[which[k]] if highest[k] > 0 else 0


@kernel()
def _take_higher(ious: np.ndarray, truth: np.int32, highest: np.ndarray, which: np.ndarray) -> None:
    """Keeps in highest [BLOCK] the higher of itself and ious [BLOCK], and in which [BLOCK] the truth it is of."""
    for k in range(BLOCK):
        higher = ious[k] > highest[k]  # strictly: of equals the first truth stays
        highest[k] = ious[k] if higher else highest[k]
        which[k] = truth if higher else which[k]


@kernel()
def _best_boxes(
    boxes: np.ndarray, truths: np.ndarray, allowed: np.ndarray, peaks: np.ndarray, best: np.ndarray
) -> None:
    """Marks in best [A] the boxes that reach a truth's highest IoU, from `_best_truths`'s peaks [blocks, G]."""
    corners, ious = np.empty((5, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    bits = ious.view(np.int32)
    for g in range(len(truths)):
        peak = peaks[:, g].max()
        for block in range(len(peaks)):
            if peak > 0 and peaks[block, g] == peak:
                held = _load(boxes, allowed, block, corners)
                _block_ious(corners, truths[g], ious)
                for k in range(held):
                    best[block * BLOCK + k] |= bits[k] == peak
