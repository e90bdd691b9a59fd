"""Graph segmentation on the CPU: edges by a counting sort, regions by a union–find in flat arrays.

What costs is waiting: for memory, and for branches that were guessed wrong. So edges are looked at in blocks, first
without any branch, which leaves those that may join two regions. Indices are unsigned, as numba looks at the sign of
others. Letters: C channels, H W height and width, E edges, R regions, P pairs of neighbours.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.cpu.threads import kernel
from rcnn.kernels.segmentation import BUCKETS, EXPONENT, MANTISSA, Edges, Segmentation, bucket_weights, step_offsets

BLOCK = 256
ONE = np.uint64(1)


def sorted_edges(planes: np.ndarray) -> Edges:
    """The edges of the grid on planes [C, H, W] by rising weight; see `rcnn.kernels.sorted_edges`."""
    _, height, width = planes.shape
    keys = np.empty((height, 4, width), np.uint16)
    first = np.zeros(BUCKETS + 1, np.uint64)
    _weigh(planes, keys, first)
    codes = np.empty(int(first[-1]), np.uint32)
    _scatter(keys, first.copy(), codes)
    return Edges(codes, first, height, width)


def segment(edges: Edges, k: float, least: int) -> Segmentation:
    """Regions from sorted edges; see `rcnn.kernels.segment`."""
    pixels = edges.height * edges.width
    parent, size = np.arange(pixels, dtype=np.uint32), np.ones(pixels, np.int32)
    steps = step_offsets(edges.width)
    left = np.empty(len(edges.codes), np.uint32)
    count = _merge(edges.codes, edges.first, bucket_weights(), steps, np.float32(k), parent, size, left)
    count = _merge_small(left[:count], steps, least, parent, size)
    labels = np.empty((edges.height, edges.width), np.int32)
    regions = _label(parent, size, labels.ravel())
    boxes, sizes = np.empty((regions, 4), np.int32), np.zeros(regions, np.int32)
    _measure(labels, boxes, sizes)
    pairs = np.empty((count, 2), np.int32)
    count = _neighbours(left[:count], steps, labels.ravel(), regions, pairs)
    return Segmentation(labels, boxes, sizes, pairs[:count].copy())


@kernel()
def _weigh(planes: np.ndarray, keys: np.ndarray, first: np.ndarray) -> None:
    """Fills keys [H, 4, W] with the buckets of the edges that start at each pixel, and first [BUCKETS + 1] with where
    each bucket starts. Where there is no edge the key is BUCKETS."""
    channels, height, width = planes.shape
    square = np.empty(width, np.float32)
    bits = square.view(np.int32)
    lowest, highest, dropped = np.int32(EXPONENT << MANTISSA), np.int32(BUCKETS - 1), np.int32(23 - MANTISSA)
    for y in range(height):
        for d in range(4):
            down = np.int64(d > 0)
            start, stop = (1, width) if d == 3 else (0, width - (d != 1))  # as in `STEPS`
            across = 0 if d == 1 else (-1 if d == 3 else 1)
            keys[y, d] = np.uint16(BUCKETS)
            if y + down == height:
                continue
            square[:] = np.float32(0)
            here = square[start:stop]
            for c in range(channels):
                one, other = planes[c, y, start:stop], planes[c, y + down, start + across : stop + across]
                for x in range(len(here)):
                    difference = one[x] - other[x]
                    here[x] += difference * difference
            key, bit = keys[y, d, start:stop], bits[start:stop]
            for x in range(len(key)):
                key[x] = np.uint16(min(max((bit[x] >> dropped) - lowest, np.int32(0)), highest))
            for x in range(len(key)):
                first[np.uint64(key[x]) + ONE] += ONE
    for bucket in range(BUCKETS):
        first[bucket + 1] += first[bucket]


@kernel()
def _scatter(keys: np.ndarray, place: np.ndarray, codes: np.ndarray) -> None:
    """Fills codes [E] in the order of keys [H, 4, W]; place [BUCKETS + 1] is used up."""
    height, _, width = keys.shape
    for y in range(height):
        for d in range(4):
            row = keys[y, d]
            code = np.uint32((y * width) << 2 | d)
            for x in range(width):
                key = row[x]
                if key < BUCKETS:
                    codes[place[key]] = code
                    place[key] += ONE
                code += np.uint32(4)


@kernel()
def _root(parent: np.ndarray, node: np.uint32) -> np.uint32:
    """The root of a node; the way there is halved."""
    above = parent[node]
    while above != node:
        over = parent[above]
        parent[node] = over
        node = over
        above = parent[node]
    return node


@kernel()
def _candidates(
    codes: np.ndarray,  # [E]
    start: np.uint64,
    stop: np.uint64,
    steps: np.ndarray,  # [4]
    parent: np.ndarray,  # [pixels], ways are shortened
    block: np.ndarray,  # [3, BLOCK], filled with both ends, nearly at their roots, and the code
) -> np.uint64:
    """Takes the edges `start` … `stop` - 1 that may join two regions into `block`; returns how many."""
    count = np.uint64(0)
    e = start
    while e < stop:
        code = codes[e]
        e += ONE
        here = code >> np.uint32(2)
        there = np.uint32(here + steps[code & np.uint32(3)])
        a, b = parent[parent[here]], parent[parent[there]]
        parent[here], parent[there] = a, b
        block[0, count], block[1, count], block[2, count] = a, b, code
        count += np.uint64(a != b)
    return count


@kernel()
def _merge(
    codes: np.ndarray,  # [E]
    first: np.ndarray,  # [BUCKETS + 1]
    weights: np.ndarray,  # [BUCKETS]
    steps: np.ndarray,  # [4]
    k: np.float32,
    parent: np.ndarray,  # [pixels], changed
    size: np.ndarray,  # [pixels], changed
    left: np.ndarray,  # [E], filled with the edges that joined nothing
) -> np.uint64:
    """Joins regions over edges no heavier than both allow; returns how many edges lead from one region to another."""
    limit = np.full(len(parent), k)  # Int(C) + k / |C|, the minimum internal difference's two sides
    block = np.empty((3, BLOCK), np.uint32)
    count = np.uint64(0)
    for bucket in range(len(weights)):
        weight = weights[bucket]
        start, stop = first[bucket], first[bucket + 1]
        while start < stop:
            end = min(start + np.uint64(BLOCK), stop)
            held = _candidates(codes, start, end, steps, parent, block)
            start = end
            i = np.uint64(0)
            while i < held:
                a, b, code = _root(parent, block[0, i]), _root(parent, block[1, i]), block[2, i]
                i += ONE
                if a == b:
                    continue
                if weight <= min(limit[a], limit[b]):
                    low, high = min(a, b), max(a, b)
                    parent[high] = low
                    size[low] = size[a] + size[b]
                    limit[low] = weight + k / np.float32(size[low])
                else:
                    left[count] = code
                    count += ONE
    return count


@kernel()
def _merge_small(left: np.ndarray, steps: np.ndarray, least: int, parent: np.ndarray, size: np.ndarray) -> np.uint64:
    """Joins two regions over an edge where one has fewer than `least` pixels, by rising weight.

    The edges that join nothing are moved to the front of `left`; returns how many they are.
    """
    block = np.empty((3, BLOCK), np.uint32)
    count, start, stop = np.uint64(0), np.uint64(0), np.uint64(len(left))
    while start < stop:
        end = min(start + np.uint64(BLOCK), stop)
        held = _candidates(left, start, end, steps, parent, block)
        start = end
        i = np.uint64(0)
        while i < held:
            a, b, code = _root(parent, block[0, i]), _root(parent, block[1, i]), block[2, i]
            i += ONE
            if a == b:
                continue
            if min(size[a], size[b]) < least:
                low, high = min(a, b), max(a, b)
                parent[high] = low
                size[low] = size[a] + size[b]
            else:
                left[count] = code
                count += ONE
    return count


@kernel()
def _label(parent: np.ndarray, number: np.ndarray, labels: np.ndarray) -> np.int32:
    """Numbers regions by their first pixels in labels [pixels]; returns how many there are.

    A root is its region's first pixel. number [pixels] is overwritten.
    """
    regions = np.int32(0)
    p = np.uint64(0)
    while p < len(parent):
        root = parent[parent[p]]
        while parent[root] != root:
            root = parent[root]
        parent[p] = root
        if root == p:
            number[p] = regions
            regions += np.int32(1)
        labels[p] = number[root]
        p += ONE
    return regions


@kernel()
def _measure(labels: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Fills boxes [R, 4] and sizes [R] of labels [H, W], run by run."""
    height, width = labels.shape
    boxes[:, 0], boxes[:, 1], boxes[:, 2:] = width, height, 0
    for y in range(height):
        row, x = labels[y], 0
        while x < width:
            region, start = row[x], x
            while x < width and row[x] == region:
                x += 1
            box = boxes[region]
            box[0], box[1] = min(box[0], start), min(box[1], y)
            box[2], box[3] = max(box[2], x), y + 1
            sizes[region] += x - start


@kernel()
def _neighbours(left: np.ndarray, steps: np.ndarray, labels: np.ndarray, regions: int, pairs: np.ndarray) -> int:
    """Fills pairs [P, 2] with neighbouring regions, the lower first, each once; returns how many.

    Edges between two regions joined nothing, so they are among `left`. They are dealt out by their lower region, where
    a mark on the higher one tells that it has been met.
    """
    ends = np.empty((2, len(left)), np.uint32)
    place = np.zeros(regions + 1, np.uint64)
    count, e = np.uint64(0), np.uint64(0)
    before = np.uint32(0), np.uint32(0)
    while e < len(left):
        here = left[e] >> np.uint32(2)
        a, b = np.uint32(labels[here]), np.uint32(labels[np.uint32(here + steps[left[e] & np.uint32(3)])])
        both = min(a, b), max(a, b)
        ends[0, count], ends[1, count] = both
        fresh = np.uint64((a != b) & (both != before))  # edges side by side often join the same two regions
        place[np.uint64(both[0]) + ONE] += fresh
        count += fresh
        before = both
        e += ONE
    for region in range(regions):
        place[region + 1] += place[region]
    dealt = np.empty(count, np.uint32)
    start = place.copy()
    e = np.uint64(0)
    while e < count:
        dealt[place[ends[0, e]]] = ends[1, e]
        place[ends[0, e]] += ONE
        e += ONE
    met = np.full(regions, regions, np.uint32)
    found = 0
    for region in range(regions):
        for e in range(start[region], start[region + 1]):
            other = dealt[e]
            if met[other] != region:
                met[other] = region
                pairs[found, 0], pairs[found, 1] = region, other
                found += 1
    return found
