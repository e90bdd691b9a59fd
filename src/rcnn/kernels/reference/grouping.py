"""Histograms of regions and their grouping as the paper reads (Uijlings et al. 2013, algorithm 1), pair by pair.

Letters: C channels, H W height and width, R regions, T and Q columns of the texture's and the colour's histograms.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.colour import COLOUR_BINS, TEXTURE_BINS
from rcnn.kernels.grouping import UNIT, WHOLE, Histograms, colour_columns, texture_columns
from rcnn.kernels.segmentation import Segmentation


def histograms(segmentation: Segmentation, numbers: np.ndarray) -> Histograms:
    """Histograms of regions from numbers [H, W, 5C]; see `rcnn.kernels.histograms`."""
    channels = numbers.shape[2] // 5
    texture = texture_columns(channels)
    rows = np.zeros((len(segmentation.sizes), texture + colour_columns(channels)), np.uint16)
    for row, r in zip(rows, range(len(rows)), strict=True):
        mine = numbers[segmentation.labels == r].astype(np.int64)  # [pixels, 5C]
        slopes, values = mine[:, : 4 * channels], mine[:, 4 * channels :]
        rising = np.where(slopes < TEXTURE_BINS, slopes, 0)
        falling = np.where(slopes >= TEXTURE_BINS, slopes - TEXTURE_BINS, 0)
        eight = np.stack((rising, falling), 2).reshape(len(mine), -1)  # [pixels, 8C]
        for of, bins, start in ((eight, TEXTURE_BINS, 0), (values, COLOUR_BINS, texture)):
            scale = np.float32(WHOLE / of.shape[1]) / np.float32(len(mine))
            for j, column in enumerate(of.T):
                count = np.bincount(column, minlength=bins).astype(np.float32)
                row[start + j * bins : start + (j + 1) * bins] = count * scale + np.float32(0.5)
    return Histograms(rows, texture)


def group(segmentation: Segmentation, columns: np.ndarray, *, size: bool, fill: bool) -> np.ndarray:
    """Boxes int32 [2R - 1, 4] of all regions that ever are; see `rcnn.kernels.group`; columns [R, …] are compared."""
    pixels = segmentation.labels.size
    sizes, boxes, rows = segmentation.sizes.tolist(), segmentation.boxes.copy(), columns.copy()
    hierarchy = list(segmentation.boxes)

    def similarity(a: int, b: int) -> int:
        total = np.minimum(rows[a], rows[b]).sum(dtype=np.int64) / WHOLE
        if size:
            total += 1.0 - (sizes[a] + sizes[b]) / pixels
        if fill:
            box = _union(boxes[a], boxes[b])
            area = int(box[2] - box[0]) * int(box[3] - box[1])
            total += 1.0 - (area - sizes[a] - sizes[b]) / pixels
        return int(total * UNIT)

    similar = {(a, b): similarity(a, b) for a, b in segmentation.pairs.tolist()}
    while similar:
        a, b = min(similar, key=lambda pair: (-similar[pair], pair))
        mine, other = (np.float32(sizes[r]) / np.float32(sizes[a] + sizes[b]) for r in (a, b))
        rows[a] = rows[a].astype(np.float32) * mine + rows[b].astype(np.float32) * other + np.float32(0.5)
        boxes[a] = _union(boxes[a], boxes[b])
        sizes[a] += sizes[b]
        hierarchy.append(boxes[a].copy())
        touched = {r for pair in similar if a in pair or b in pair for r in pair} - {a, b}
        similar = {pair: value for pair, value in similar.items() if a not in pair and b not in pair}
        similar |= {(min(a, r), max(a, r)): similarity(a, r) for r in touched}
    return np.array(hierarchy, np.int32)


def _union(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smallest box [4] around two."""
    return np.concatenate((np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])))
