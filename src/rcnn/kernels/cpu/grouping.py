"""Histograms of regions and their hierarchical grouping on the CPU.

Histograms are whole numbers of 16 bits, of which one instruction compares 32. Each region knows its most similar
neighbour, so that the most similar pair is found in one pass over the regions; pairs are linked into the lists of both
their regions, so that a merge touches nothing but the neighbours. Letters: H W height and width, J bin numbers of a
pixel, R regions, P pairs of neighbours, T and Q columns of the texture's and the colour's histograms.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.colour import COLOUR_BINS, TEXTURE_BINS
from rcnn.kernels.cpu.threads import kernel
from rcnn.kernels.grouping import UNIT, WHOLE, Histograms, colour_columns, texture_columns
from rcnn.kernels.segmentation import Segmentation

BOTH = 2 * TEXTURE_BINS  # bins of an orientation and of the one against it
NONE = np.int32(-1)


def histograms(segmentation: Segmentation, numbers: np.ndarray) -> Histograms:
    """Histograms of regions from numbers [H, W, 5C]; see `rcnn.kernels.histograms`."""
    sizes, channels = segmentation.sizes, numbers.shape[2] // 5
    counts = np.zeros((len(sizes), 4 * channels * BOTH + channels * COLOUR_BINS), np.int32)
    count = _count1 if channels == 1 else _count3  # loops of fixed length are unrolled
    count(segmentation.labels, numbers, counts)
    texture = texture_columns(channels)
    rows = np.zeros((len(sizes), texture + colour_columns(channels)), np.uint16)
    _normalise(counts, sizes, channels, texture, rows)
    return Histograms(rows, texture)


def group(segmentation: Segmentation, columns: np.ndarray, *, size: bool, fill: bool) -> np.ndarray:
    """Boxes int32 [2R - 1, 4] of all regions that ever are; see `rcnn.kernels.group`; columns [R, …] are compared."""
    sizes, boxes, pixels = segmentation.sizes.copy(), segmentation.boxes.copy(), segmentation.labels.size
    hierarchy = np.empty((2 * len(sizes) - 1, 4), np.int32)
    _group(sizes, boxes, segmentation.pairs, np.array(columns, order="C"), size, fill, pixels, hierarchy)
    return hierarchy


@kernel()
def _count3(labels: np.ndarray, numbers: np.ndarray, counts: np.ndarray) -> None:
    """Adds the bin numbers [H, W, 15] of each pixel to its region's counts [R, 12 · 20 + 3 · 25]."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            count, number = counts[np.uint32(labels[y, x])], numbers[y, x]
            for j in range(12):
                count[np.uint32(j * BOTH) + number[j]] += np.int32(1)
            for j in range(3):
                count[np.uint32(12 * BOTH + j * COLOUR_BINS) + number[12 + j]] += np.int32(1)


@kernel()
def _count1(labels: np.ndarray, numbers: np.ndarray, counts: np.ndarray) -> None:
    """Adds the bin numbers [H, W, 5] of each pixel to its region's counts [R, 4 · 20 + 25]."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            count, number = counts[np.uint32(labels[y, x])], numbers[y, x]
            for j in range(4):
                count[np.uint32(j * BOTH) + number[j]] += np.int32(1)
            count[np.uint32(4 * BOTH) + number[4]] += np.int32(1)


@kernel()
def _normalise(counts: np.ndarray, sizes: np.ndarray, channels: int, texture: int, result: np.ndarray) -> None:
    """Fills result [R, T + Q]; the two halves of an orientation's bins become histograms of their own.

    A pixel that falls along an orientation counts for it as one without slope.
    """
    half = np.float32(0.5)
    for r in range(len(sizes)):
        scale = np.float32(WHOLE / (8 * channels)) / np.float32(sizes[r])
        for j in range(4 * channels):
            for side in range(2):
                from_column, to_column = j * BOTH + side * TEXTURE_BINS, (2 * j + side) * TEXTURE_BINS
                rising = 0
                for b in range(1, TEXTURE_BINS):
                    count = counts[r, from_column + b]
                    rising += count
                    result[r, to_column + b] = np.uint16(np.float32(count) * scale + half)
                result[r, to_column] = np.uint16(np.float32(sizes[r] - rising) * scale + half)
        scale = np.float32(WHOLE / channels) / np.float32(sizes[r])
        for b in range(channels * COLOUR_BINS):
            result[r, texture + b] = np.uint16(np.float32(counts[r, 4 * channels * BOTH + b]) * scale + half)


@kernel()
def _shared(a: np.ndarray, b: np.ndarray) -> np.uint32:
    """The intersection of two rows of histograms."""
    total = np.uint32(0)
    for column in range(len(a)):
        total += np.uint32(a[column] if a[column] < b[column] else b[column])
    return total


@kernel()
def _similarity(
    sizes: np.ndarray,
    boxes: np.ndarray,
    columns: np.ndarray,
    a: int,
    b: int,
    use_size: bool,
    use_fill: bool,
    pixels: int,
) -> np.int32:
    """The similarity of regions a and b in units of 1 / UNIT; never negative."""
    total = np.float64(_shared(columns[a], columns[b])) / WHOLE
    both = sizes[a] + sizes[b]
    if use_size:
        total += 1.0 - both / pixels
    if use_fill:
        width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += 1.0 - (width * height - both) / pixels
    return np.int32(total * UNIT)


@kernel()
def _most_similar(head: np.ndarray, after: np.ndarray, ends: np.ndarray, similar: np.ndarray, region: int) -> tuple:
    """The highest similarity of a region's pairs, and the lowest neighbour that has it."""
    best, partner = NONE, NONE
    half = head[region]
    while half >= 0:
        value, other = similar[half >> 1], ends[half]
        if value > best or (value == best and other < partner):
            best, partner = value, other
        half = after[half]
    return best, partner


@kernel()
def _group(
    sizes: np.ndarray,  # [R], changed
    boxes: np.ndarray,  # [R, 4], changed
    pairs: np.ndarray,  # [P, 2]
    columns: np.ndarray,  # [R, …], changed
    use_size: bool,
    use_fill: bool,
    pixels: int,
    hierarchy: np.ndarray,  # [2R - 1, 4], filled
) -> None:
    """Merges the most similar pair until one region is left; a union takes the lower number of the two.

    Of equals the pair with the lowest number merges first, and of its neighbours the lowest.
    """
    regions = len(sizes)
    # Pair p has two halves: 2p stands in the list of its lower region and names the higher, 2p + 1 the other way.
    ends = np.empty(2 * len(pairs), np.int32)
    after, ahead = np.empty(2 * len(pairs), np.int32), np.empty(2 * len(pairs), np.int32)
    head = np.full(regions, NONE)
    similar = np.empty(len(pairs), np.int32)
    best, partner = np.full(regions, NONE), np.full(regions, NONE)
    known = np.full(regions, NONE)
    for p in range(len(pairs)):
        a, b = pairs[p]
        similar[p] = _similarity(sizes, boxes, columns, a, b, use_size, use_fill, pixels)
        ends[2 * p], ends[2 * p + 1] = b, a
        _link(head, after, ahead, a, 2 * p)
        _link(head, after, ahead, b, 2 * p + 1)
    for region in range(regions):
        best[region], partner[region] = _most_similar(head, after, ends, similar, region)
        hierarchy[region] = boxes[region]
    for merge in range(regions - 1):
        a = _highest(best)
        b = partner[a]
        _unite(sizes, boxes, columns, a, b)
        hierarchy[regions + merge] = boxes[a]
        best[b] = NONE
        _unlink_between(head, after, ahead, ends, known, a, b, merge)
        highest, nearest = NONE, NONE
        half = head[a]
        while half >= 0:
            other = ends[half]
            value = _similarity(sizes, boxes, columns, a, other, use_size, use_fill, pixels)
            similar[half >> 1] = value
            if value > highest or (value == highest and other < nearest):
                highest, nearest = value, other
            lost = partner[other] == a or partner[other] == b
            if value > best[other] or (value == best[other] and (lost or a < partner[other])):
                best[other], partner[other] = value, a
            elif lost:
                best[other], partner[other] = _most_similar(head, after, ends, similar, other)
            half = after[half]
        best[a], partner[a] = highest, nearest


@kernel()
def _highest(best: np.ndarray) -> int:
    """The first index of the highest of best [R]."""
    highest = NONE
    for region in range(len(best)):
        highest = max(highest, best[region])
    for region in range(len(best)):
        if best[region] == highest:
            return region
    return 0


@kernel()
def _unite(sizes: np.ndarray, boxes: np.ndarray, columns: np.ndarray, a: int, b: int) -> None:
    """Region a becomes the union of a and b: histograms are means weighted by size."""
    size = sizes[a] + sizes[b]
    mine, other, half = (
        np.float32(sizes[a]) / np.float32(size),
        np.float32(sizes[b]) / np.float32(size),
        np.float32(0.5),
    )
    row, merged = columns[a], columns[b]
    for column in range(len(row)):
        row[column] = np.uint16(np.float32(row[column]) * mine + np.float32(merged[column]) * other + half)
    sizes[a] = size
    box, more = boxes[a], boxes[b]
    box[0], box[1] = min(box[0], more[0]), min(box[1], more[1])
    box[2], box[3] = max(box[2], more[2]), max(box[3], more[3])


@kernel()
def _link(head: np.ndarray, after: np.ndarray, ahead: np.ndarray, region: int, half: int) -> None:
    """Puts a half at the front of a region's list."""
    first = head[region]
    after[half], ahead[half] = first, NONE
    if first >= 0:
        ahead[first] = half
    head[region] = half


@kernel()
def _unlink(head: np.ndarray, after: np.ndarray, ahead: np.ndarray, region: int, half: int) -> None:
    """Takes a half out of a region's list."""
    if ahead[half] >= 0:
        after[ahead[half]] = after[half]
    else:
        head[region] = after[half]
    if after[half] >= 0:
        ahead[after[half]] = ahead[half]


@kernel()
def _unlink_between(
    head: np.ndarray,
    after: np.ndarray,
    ahead: np.ndarray,
    ends: np.ndarray,
    known: np.ndarray,  # [R], by which merge a region was last met
    a: int,
    b: int,
    merge: int,
) -> None:
    """Region a takes over the neighbours of b: the pair of both goes, and one of two pairs with the same neighbour."""
    half = head[a]
    while half >= 0:
        other = ends[half]
        if other == b:
            _unlink(head, after, ahead, a, half)
        else:
            known[other] = merge
        half = after[half]
    half = head[b]
    while half >= 0:
        other, following = ends[half], after[half]
        if other != a:
            if known[other] == merge:
                _unlink(head, after, ahead, other, half ^ 1)
            else:
                ends[half ^ 1] = a
                _link(head, after, ahead, a, half)
        half = following
