"""Non-maximum suppression on a GPU, with no look at the result from the CPU.

Boxes go by descending score, 4096 at a time, through three kernels: which of them do the boxes kept so far suppress;
which pairs among them overlap, one bit each; and a walk through those bits, one program an image, which keeps boxes
until the capacity is reached. So memory stays at 2 MiB an image, and the work is that of the kept boxes.
Letters: B images, N boxes, D capacity.
"""

# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from rcnn.kernels.cuda.axes import launch

BITS = tl.constexpr(64)  # boxes of a word
WORDS = tl.constexpr(64)  # words of a segment: 4096 boxes
PART = tl.constexpr(32)  # kept boxes compared at once: more would not fit the registers
UNROLLED = tl.constexpr(16)  # rows whose bits are fetched together
SEGMENT = BITS.value * WORDS.value
NUMBERS = ["boxes", "first", "capacity"]  # that must not make Triton compile anew


def nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, groups: Tensor | None, threshold: float, capacity: int
) -> tuple[Tensor, Tensor]:
    """Kept boxes of boxes [B, N, 4]: index [B, capacity] and count [B]; see `rcnn.kernels.nms`."""
    images, candidates = scores.shape
    kept = torch.zeros((images, capacity), dtype=torch.int64, device=boxes.device)  # places in the order
    count = torch.zeros(images, dtype=torch.int64, device=boxes.device)
    if images * candidates * capacity == 0:
        return kept, count
    order = torch.where(valid, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)  # [B, N]
    corners = boxes.gather(1, order[..., None].expand_as(boxes)).contiguous()
    valid, grouped = valid.gather(1, order), groups is not None
    # A pointer must be something, also where nothing reads it.
    kinds = valid if groups is None else groups.gather(1, order)
    limit = below(threshold)
    rows = triton.cdiv(min(SEGMENT, candidates), BITS.value) * BITS.value
    gone = torch.empty((images, WORDS.value), dtype=torch.int64, device=boxes.device)
    pairs = torch.empty((images, rows, WORDS.value), dtype=torch.int64, device=boxes.device)
    for first in range(0, candidates, SEGMENT):
        data = (corners, kinds, candidates, first)
        words = triton.cdiv(min(SEGMENT, candidates - first), BITS.value)
        launch(_suppressed_before, (words, images), *data, valid, kept, count, capacity, limit, gone, GROUPED=grouped)
        launch(_overlaps, (words, words, images), *data, limit, pairs, rows, warps=8, GROUPED=grouped)
        launch(_walk, (images,), gone, pairs, rows, words, first, kept, count, capacity, warps=2)
    index = order.gather(1, kept)
    return index.masked_fill(torch.arange(capacity, device=boxes.device) >= count[:, None], 0), count


def below(threshold: float) -> float:
    """The float32 above which an IoU in float32 lies just where it lies above the threshold itself."""
    limit = np.float32(threshold)
    return float(np.nextafter(limit, np.float32(-1)) if float(limit) > threshold else limit)


@triton.jit
def corners_of(boxes, numbers, known):
    """x1, y1, x2, y2 of boxes by number; zeros where not known."""
    x1 = tl.load(boxes + numbers * 4, mask=known, other=0)
    y1 = tl.load(boxes + numbers * 4 + 1, mask=known, other=0)
    x2 = tl.load(boxes + numbers * 4 + 2, mask=known, other=0)
    y2 = tl.load(boxes + numbers * 4 + 3, mask=known, other=0)
    return x1, y1, x2, y2


@triton.jit
def iou(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """`rcnn.boxes.iou` of boxes that broadcast, to the bit; 0 for boxes that are not numbers."""
    all_nan: tl.constexpr = tl.PropagateNan.ALL
    left, top = tl.maximum(ax1, bx1, propagate_nan=all_nan), tl.maximum(ay1, by1, propagate_nan=all_nan)
    right, bottom = tl.minimum(ax2, bx2, propagate_nan=all_nan), tl.minimum(ay2, by2, propagate_nan=all_nan)
    wide = tl.maximum(right - left, 0.0, propagate_nan=all_nan)
    shared = wide * tl.maximum(bottom - top, 0.0, propagate_nan=all_nan)
    area_a = tl.maximum(ax2 - ax1, 0.0, propagate_nan=all_nan) * tl.maximum(ay2 - ay1, 0.0, propagate_nan=all_nan)
    area_b = tl.maximum(bx2 - bx1, 0.0, propagate_nan=all_nan) * tl.maximum(by2 - by1, 0.0, propagate_nan=all_nan)
    union = area_a + area_b - shared
    # 2^-126, the smallest normal number, keeps the unused quotient of empty boxes finite.
    return tl.where(union > 0, tl.div_rn(shared, tl.maximum(union, 1.1754943508222875e-38)), 0.0)


@triton.jit(do_not_specialize=NUMBERS)
def _suppressed_before(
    corners,  # [B, N, 4], best first
    kinds,  # [B, N]
    boxes,
    first,  # of the segment
    valid,  # [B, N]
    kept,  # [B, D]
    count,  # [B]
    capacity,
    limit,
    gone,  # [B, WORDS], filled with bits
    GROUPED: tl.constexpr,
):
    word, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lanes = tl.arange(0, BITS)
    own = first + word * BITS + lanes
    real = own < boxes
    x1, y1, x2, y2 = corners_of(corners + image * boxes * 4, own, real)
    lost = tl.load(valid + image * boxes + own, mask=real, other=0).to(tl.int32) == 0
    found = tl.load(count + image)
    for start in range(0, found, PART):
        places = start + tl.arange(0, PART)
        there = places < found
        others = tl.load(kept + image * capacity + places, mask=there, other=0)
        a1, b1, a2, b2 = corners_of(corners + image * boxes * 4, others, there)
        hit = iou(x1[:, None], y1[:, None], x2[:, None], y2[:, None], a1[None], b1[None], a2[None], b2[None]) > limit
        hit &= there[None]
        if GROUPED:
            mine = tl.load(kinds + image * boxes + own, mask=real, other=0)
            hit &= mine[:, None] == tl.load(kinds + image * boxes + others, mask=there, other=0)[None]
        lost |= tl.max(hit.to(tl.int32), 1) > 0
    bits = tl.where(lost, tl.full((BITS,), 1, tl.int64) << lanes.to(tl.int64), 0)
    tl.store(gone + image * WORDS + word, tl.sum(bits, 0))


@triton.jit(do_not_specialize=[*NUMBERS, "rows"])
def _overlaps(
    corners,  # [B, N, 4], best first
    kinds,  # [B, N]
    boxes,
    first,  # of the segment
    limit,
    pairs,  # [B, rows, WORDS], filled on and above the diagonal: bit k of word w says that w·64 + k loses to the row
    rows,
    GROUPED: tl.constexpr,
):
    column, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if column >= row:
        lanes = tl.arange(0, BITS)
        own, others = first + row * BITS + lanes, first + column * BITS + lanes
        x1, y1, x2, y2 = corners_of(corners + image * boxes * 4, own, own < boxes)
        a1, b1, a2, b2 = corners_of(corners + image * boxes * 4, others, others < boxes)
        hit = iou(x1[:, None], y1[:, None], x2[:, None], y2[:, None], a1[None], b1[None], a2[None], b2[None]) > limit
        hit &= others[None] > own[:, None]
        if GROUPED:
            mine = tl.load(kinds + image * boxes + own, mask=own < boxes, other=0)
            hit &= mine[:, None] == tl.load(kinds + image * boxes + others, mask=others < boxes, other=0)[None]
        bits = tl.where(hit, (tl.full((BITS,), 1, tl.int64) << lanes.to(tl.int64))[None], 0)
        place = pairs + (image * rows + row * BITS + lanes) * WORDS + column
        tl.store(place, tl.sum(bits, 1))


@triton.jit(do_not_specialize=["rows", "words", "first", "capacity"])
def _walk(
    gone,  # [B, WORDS]
    pairs,  # [B, rows, WORDS]
    rows,
    words,
    first,  # of the segment
    kept,  # [B, D], places of the kept boxes are appended
    count,  # [B], raised
    capacity,
):
    image = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BITS)
    columns = tl.arange(0, WORDS)
    later = columns < words
    lost = tl.load(gone + image * WORDS + columns, mask=later, other=-1)
    found = tl.load(count + image)
    for word in range(words):
        if found < capacity:
            row = pairs + (image * rows + word * BITS) * WORDS
            bits = tl.sum(tl.where(columns == word, lost, 0), 0)
            # Box after box of the word: one that is still there removes those it overlaps.
            for start in range(0, BITS, UNROLLED):
                for k in tl.static_range(UNROLLED):
                    hits = tl.load(row + (start + k) * WORDS + word)
                    bits |= tl.where((bits >> (start + k)) & 1 == 0, hits, 0)
            for start in range(0, BITS, UNROLLED):
                for k in tl.static_range(UNROLLED):
                    hits = tl.load(row + (start + k) * WORDS + columns, mask=later & (columns > word), other=0)
                    lost |= tl.where((bits >> (start + k)) & 1 == 0, hits, 0)
            stays = ((bits >> lanes.to(tl.int64)) & 1) == 0
            place = found + tl.cumsum(stays.to(tl.int64), 0) - 1
            own = first + word * BITS + lanes
            tl.store(kept + image * capacity + place, own.to(tl.int64), mask=stays & (place < capacity))
            found += tl.sum(stays.to(tl.int64), 0)
    tl.store(count + image, tl.minimum(found, capacity))
