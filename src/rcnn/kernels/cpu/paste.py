"""Masks put back on the CPU: column by column over the box alone, and straight into run lengths.

Letters: D masks, M cells along a mask's side, R runs.
"""

from __future__ import annotations

import math

import numpy as np

from rcnn.kernels.cpu.threads import kernel, run, spans


def paste(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float) -> list[np.ndarray]:
    """Run lengths of masks [D, M, M] in boxes [D, 4]; see `rcnn.kernels.paste`."""
    found: list[np.ndarray] = [np.empty(0, np.int64)] * len(masks)
    run([(_paste_some, found, masks, boxes, size, threshold, *span) for span in spans(len(masks), least=8)])
    return found


def _paste_some(
    found: list[np.ndarray],
    masks: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    threshold: float,
    first: int,
    last: int,
) -> None:
    """Fills `found` from `first` to `last` - 1."""
    for d in range(first, last):
        found[d] = _runs(masks[d], boxes[d], size[0], size[1], np.float32(threshold))


@kernel()
def _reach(start: np.float32, end: np.float32, extent: int, cells: int) -> tuple[int, int]:
    """The pixels along an axis, from the first to before the last, that a mask in `start` … `end` has a part in."""
    beyond = (end - start) / np.float32(2 * cells)  # half a cell
    first = max(math.floor(max(start - beyond - np.float32(0.5), np.float32(-1))), 0)
    last = min(math.ceil(min(end + beyond + np.float32(0.5), np.float32(extent))), extent)
    return first, max(last, first)


@kernel()
def _runs(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: np.float32) -> np.ndarray:
    """The runs [R] of one mask [M, M] in one box [4]."""
    cells = mask.shape[0]
    x1, y1, x2, y2 = box
    pixels = height * width
    if not (x2 > x1 and y2 > y1):
        return np.full(1, pixels, np.int64)
    left, right = _reach(x1, x2, width, cells)
    top, bottom = _reach(y1, y2, height, cells)
    # Between two cells' centres a column is linear, so it passes the threshold once at most.
    room = min(cells + 3, bottom - top + 2) * (right - left) + 3
    runs, count = np.empty(room, np.int64), 0
    column = np.zeros(cells + 2, np.float32)  # with the zeros before and after
    state, before = False, 0
    for x in range(left, right):
        u = (np.float32(x) + np.float32(0.5) - x1) / (x2 - x1) * np.float32(cells) - np.float32(0.5)
        cell = math.floor(u)
        share = u - np.float32(cell)
        for i in range(cells):
            near = mask[i, cell] if 0 <= cell < cells else np.float32(0)
            far = mask[i, cell + 1] if 0 <= cell + 1 < cells else np.float32(0)
            column[i + 1] = near * (np.float32(1) - share) + far * share
        for y in range(top, bottom):
            v = (np.float32(y) + np.float32(0.5) - y1) / (y2 - y1) * np.float32(cells) - np.float32(0.5)
            row = math.floor(v)
            part = v - np.float32(row)
            on = False
            if -1 <= row < cells:
                on = column[row + 1] * (np.float32(1) - part) + column[row + 2] * part >= threshold
            if on != state:
                runs[count] = x * height + y - before
                count, before, state = count + 1, x * height + y, on
        ends = bottom < height or top > 0 or x == right - 1  # else the next column goes on from this one
        if state and ends:
            runs[count] = x * height + bottom - before
            count, before, state = count + 1, x * height + bottom, False
    if before < pixels:
        runs[count] = pixels - before
        count += 1
    return runs[:count].copy()
