"""Graph-based segmentation (Felzenszwalb and Huttenlocher 2004), with the sorting of edges apart from the merging.

Pixels are nodes; each is joined to its eight neighbours by an edge as heavy as their colours are far apart. Letters:
C channels, H W height and width, E edges, R regions, P pairs of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnn.kernels.forms import array_form

# Edges lead from a pixel to the right, down, and down to the right and to the left: rows and columns away.
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))

# Weights are told apart by exponent and six bits of their squares (to 0.8%), from 2^-12 up to 2^18.
MANTISSA = 6
EXPONENT = 127 - 12
BUCKETS = 30 << MANTISSA


@dataclass(frozen=True)
class Edges:
    """The edges of an image's grid by rising weight.

    Attributes:
        codes: [E] uint32: four times the number of the pixel that an edge starts at, plus which of `STEPS` it takes.
        first: [BUCKETS + 1] uint64, where the edges of each weight start, and the end of the last.
        height, width: of the image in pixels.
    """

    codes: np.ndarray
    first: np.ndarray
    height: int
    width: int


@dataclass(frozen=True)
class Segmentation:
    """An image cut into regions.

    Attributes:
        labels: [H, W] int32, which region each pixel is in; numbered by their first pixels.
        boxes: [R, 4] int32 x1 y1 x2 y2, right and bottom exclusive.
        sizes: [R] int32 in pixels.
        pairs: [P, 2] int32 regions that touch, the lower number first, each pair once.
    """

    labels: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    pairs: np.ndarray


def sorted_edges(planes: np.ndarray) -> Edges:
    """The edges between neighbouring pixels of planes float32 [C, H, W] by rising weight, their Euclidean distance.

    Weights are rounded down to their bucket's; of equal ones the edge in the higher row goes first, then by `STEPS`,
    then from the left.
    """
    return array_form().sorted_edges(planes)


def segment(edges: Edges, k: float, least: int) -> Segmentation:
    """Cuts an image into regions.

    An edge joins two regions unless it is heavier than the heaviest in the spanning tree of one of them by more than
    k / its size (equations 3 and 4). After that, by rising weight again, regions of fewer than `least` pixels are
    joined with a neighbour.

    Args:
        edges: from `sorted_edges`; those of an image serve any number of calls.
        k: the larger, the larger the regions.
        least: the fewest pixels of a region.
    """
    return array_form().segment(edges, k, least)


def bucket_weights() -> np.ndarray:
    """The weight float32 [BUCKETS] that stands for all of a bucket: its lowest, 0 for the first."""
    squares = ((np.arange(BUCKETS, dtype=np.int32) + (EXPONENT << MANTISSA)) << (23 - MANTISSA)).view(np.float32)
    squares[0] = 0
    return np.sqrt(squares)


def step_offsets(width: int) -> np.ndarray:
    """How much higher the number of an edge's second pixel is: uint32 [4]."""
    return np.array([dy * width + dx for dy, dx in STEPS], np.uint32)
