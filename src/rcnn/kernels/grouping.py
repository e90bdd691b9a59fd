"""Hierarchical grouping of regions by similarity (Uijlings et al. 2013, algorithm 1).

Letters: C channels, H W height and width, R regions, T and Q columns of the texture's and the colour's histograms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rcnn.kernels.forms import array_form
from rcnn.kernels.segmentation import Segmentation

# What a histogram's bins add up to: a multiple of 24, 8, 3 and 1 of them, below 2^16.
WHOLE = 65280
# The similarity 1 as a whole number, so that sums are exact and equal similarities are equal everywhere.
UNIT = 1 << 28


class Histograms(NamedTuple):
    """What regions look like.

    Attributes:
        rows: [R, T + Q] uint16. First T columns for texture: for each channel eight orientations of 10 bins; an
            orientation counts only where the image rises along it, elsewhere it is without slope. Then Q columns for
            colour: for each channel 25 bins. Each part adds up to about `WHOLE` and is filled up with zeros.
        texture: T.
    """

    rows: np.ndarray
    texture: int


def histograms(segmentation: Segmentation, numbers: np.ndarray) -> Histograms:
    """Texture and colour of regions (Uijlings et al. 2013, section 3.2), from numbers [H, W, 5C] of `bin_numbers`."""
    return array_form().histograms(segmentation, numbers)


def group(
    segmentation: Segmentation, histograms: Histograms, *, colour: bool, texture: bool, size: bool, fill: bool
) -> np.ndarray:
    """Merges the two most similar neighbours until one region is left (Uijlings et al. 2013, algorithm 1).

    Of pairs that are equally similar the one with the lowest numbers merges; the union takes the lower number, and its
    histograms are the means weighted by size.

    Args:
        segmentation: the regions to start from.
        histograms: what they look like.
        colour, texture: whether the intersection of these histograms adds to the similarity.
        size: whether 1 less the share of the image that both cover does, so that small regions merge early.
        fill: whether 1 less the share of the image that their common box has beyond them does.

    Returns:
        [2R - 1, 4] int32: the boxes of the initial regions, then those of the unions as they arose.
    """
    first, last = 0 if texture else histograms.texture, None if colour else histograms.texture
    return array_form().group(segmentation, histograms.rows[:, first:last], size=size, fill=fill)


def texture_columns(channels: int) -> int:
    """T, the columns of the histograms of 8 orientations of each channel."""
    return _padded(channels * 80)


def colour_columns(channels: int) -> int:
    """Q, the columns of the histograms of each channel's values."""
    return _padded(channels * 25)


def _padded(columns: int) -> int:
    """Columns filled up to whole vectors of 32 values."""
    return -(-columns // 32) * 32
