"""Graph segmentation as the paper reads (Felzenszwalb and Huttenlocher 2004, algorithm 1), edge by edge.

Letters: C channels, H W height and width, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rcnn.kernels.segmentation import (
    BUCKETS,
    EXPONENT,
    MANTISSA,
    STEPS,
    Edges,
    Segmentation,
    bucket_weights,
)


def sorted_edges(planes: np.ndarray) -> Edges:
    """The edges of the grid on planes [C, H, W] by rising weight; see `rcnn.kernels.sorted_edges`."""
    _, height, width = planes.shape
    codes, squares = [], []
    for y in range(height):
        for step, (dy, dx) in enumerate(STEPS):
            for x in range(width):
                if y + dy < height and 0 <= x + dx < width:
                    square = np.float32(0)
                    for difference in planes[:, y, x] - planes[:, y + dy, x + dx]:
                        square += difference * difference
                    codes.append((y * width + x) * 4 + step)
                    squares.append(square)
    bits = np.array(squares, np.float32).view(np.int32) >> (23 - MANTISSA)
    buckets = np.clip(bits - (EXPONENT << MANTISSA), 0, BUCKETS - 1)
    order = buckets.argsort(kind="stable")
    first = np.searchsorted(buckets[order], np.arange(BUCKETS + 1)).astype(np.uint64)
    return Edges(np.array(codes, np.uint32)[order], first, height, width)


def segment(edges: Edges, k: float, least: int) -> Segmentation:
    """Regions from sorted edges; see `rcnn.kernels.segment`."""
    scale = np.float32(k)
    region = list(range(edges.height * edges.width))  # which region each pixel is in
    members = [[pixel] for pixel in region]
    limit = [scale] * len(region)  # Int(C) + k / |C|

    def join(a: int, b: int) -> int:
        a, b = (a, b) if len(members[a]) >= len(members[b]) else (b, a)
        for pixel in members[b]:
            region[pixel] = a
        members[a] += members[b]
        return a

    for here, there, weight in _edges(edges):
        a, b = region[here], region[there]
        if a != b and weight <= min(limit[a], limit[b]):
            both = join(a, b)
            limit[both] = weight + scale / np.float32(len(members[both]))
    for here, there, _ in _edges(edges):
        a, b = region[here], region[there]
        if a != b and min(len(members[a]), len(members[b])) < least:
            join(a, b)
    return _described(np.array(region).reshape(edges.height, edges.width), edges)


def _edges(edges: Edges) -> Iterator[tuple[int, int, np.float32]]:
    """Both pixels and the weight of each edge, in order."""
    weights = np.repeat(bucket_weights(), np.diff(edges.first.astype(np.int64)))
    for code, weight in zip(edges.codes.tolist(), weights, strict=True):
        dy, dx = STEPS[code % 4]
        yield code // 4, code // 4 + dy * edges.width + dx, weight


def _described(region: np.ndarray, edges: Edges) -> Segmentation:
    """Regions [H, W] numbered by their first pixels, measured, and who touches whom."""
    _, first, inverse = np.unique(region, return_index=True, return_inverse=True)
    labels = first.argsort().argsort()[inverse.reshape(region.shape)].astype(np.int32)
    boxes, sizes = [], []
    for r in range(len(first)):
        ys, xs = np.nonzero(labels == r)
        boxes.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        sizes.append(len(ys))
    flat = labels.ravel()
    ends = ((flat[here], flat[there]) for here, there, _ in _edges(edges))
    pairs = sorted({(min(a, b), max(a, b)) for a, b in ends if a != b})
    return Segmentation(
        labels, np.array(boxes, np.int32), np.array(sizes, np.int32), np.array(pairs, np.int32).reshape(-1, 2)
    )
