"""Matching on a GPU in two passes over the boxes, never holding a table of pairs.

The first pass finds each box's best truth and, by an atomic maximum, which no order changes, each truth's highest IoU;
the second marks the boxes that reach it. Letters: B images, A boxes, G ground truths.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.kernels.cuda.axes import launch
from rcnn.kernels.cuda.nms import corners_of, iou

BLOCK = tl.constexpr(512)  # boxes of one program


def match(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Best truth of boxes [B, A, 4]: overlap, index and best, each [B, A]; see `rcnn.kernels.match`."""
    images, truths, count = truth.shape[0], truth.shape[1], boxes.shape[1]
    overlap = boxes.new_empty((images, count))
    index = torch.empty((images, count), dtype=torch.int64, device=boxes.device)
    best = torch.empty((images, count), dtype=torch.bool, device=boxes.device)
    peaks = torch.zeros((images, truths), dtype=torch.int32, device=boxes.device)
    real, chosen = real.contiguous(), eligible is not None
    allowed = real if eligible is None else eligible.contiguous()  # a pointer must be something
    data = (boxes.contiguous(), truth.contiguous(), real, allowed, peaks, count, truths)
    options = {"SHARED": len(boxes) == 1, "CHOSEN": chosen}
    grid = (triton.cdiv(count, BLOCK.value), images)
    launch(_best_truths, grid, *data, overlap, index, **options)
    launch(_best_boxes, grid, *data, best, **options)
    return overlap, index, best


@triton.jit
def _own_boxes(boxes, allowed, count, SHARED: tl.constexpr, CHOSEN: tl.constexpr):
    """The numbers of a program's boxes, which of them exist, which are eligible, and their corners."""
    numbers, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    known = numbers < count
    if CHOSEN:
        may = known & (tl.load(allowed + image * count + numbers, mask=known, other=0).to(tl.int32) != 0)
    else:
        may = known
    if SHARED:
        x1, y1, x2, y2 = corners_of(boxes, numbers, known)
    else:
        x1, y1, x2, y2 = corners_of(boxes + image * count * 4, numbers, known)
    return numbers, known, may, x1, y1, x2, y2


@triton.jit(do_not_specialize=["count", "truths"])
def _best_truths(
    boxes,  # [B or 1, A, 4]
    truth,  # [B, G, 4]
    real,  # [B, G]
    allowed,  # [B, A]
    peaks,  # [B, G], raised to each truth's highest IoU, as float32 bits: those of numbers ≥ 0 are in their order
    count,
    truths,
    overlap,  # [B, A], filled
    index,  # [B, A], filled
    SHARED: tl.constexpr,
    CHOSEN: tl.constexpr,
):
    numbers, known, may, x1, y1, x2, y2 = _own_boxes(boxes, allowed, count, SHARED, CHOSEN)
    image = tl.program_id(1).to(tl.int64)
    highest, which = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.int64)
    for g in range(truths):
        one = image * truths + g
        if tl.load(real + one).to(tl.int32) != 0:
            a1, b1, a2, b2 = corners_of(truth, one, True)
            found = tl.where(may, iou(x1, y1, x2, y2, a1, b1, a2, b2), 0.0)
            higher = found > highest  # strictly: of equals the first truth stays
            highest, which = tl.where(higher, found, highest), tl.where(higher, g, which)
            peak = tl.max(found, 0)
            if peak > 0:
                tl.atomic_max(peaks + one, peak.to(tl.int32, bitcast=True), sem="relaxed")
    tl.store(overlap + image * count + numbers, highest, mask=known)
    tl.store(index + image * count + numbers, which, mask=known)


@triton.jit(do_not_specialize=["count", "truths"])
def _best_boxes(
    boxes,
    truth,
    real,
    allowed,
    peaks,
    count,
    truths,
    best,  # [B, A], filled
    SHARED: tl.constexpr,
    CHOSEN: tl.constexpr,
):
    numbers, known, may, x1, y1, x2, y2 = _own_boxes(boxes, allowed, count, SHARED, CHOSEN)
    image = tl.program_id(1).to(tl.int64)
    reached = tl.zeros((BLOCK,), tl.int32)
    for g in range(truths):
        one = image * truths + g
        peak = tl.load(peaks + one)
        if peak > 0:  # so the truth is real
            a1, b1, a2, b2 = corners_of(truth, one, True)
            found = iou(x1, y1, x2, y2, a1, b1, a2, b2)
            reached |= (may & (found.to(tl.int32, bitcast=True) == peak)).to(tl.int32)
    tl.store(best + image * count + numbers, reached != 0, mask=known)
