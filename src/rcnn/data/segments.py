"""Masks as COCO writes them: polygons, or run-length encoding (RLE), compressed or not.

They are carried as plain JSON values; drawing and comparing them is others' work. H W are height and width in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def require_segment(value: Any, size: tuple[int, int] | None = None) -> Any:
    """The mask `value` in COCO's form, None where it is empty.

    `size` is the image's height and width, which an RLE has to state.

    Raises:
        ValueError: it is neither polygons nor RLE; the sentence says why.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        if not all(_is_polygon(polygon) for polygon in value):
            raise ValueError("its segmentation is not polygons: lists of at least 3 corners x, y")
        return value
    counts, stated = (value.get("counts"), value.get("size")) if isinstance(value, dict) else (None, None)
    runs = isinstance(counts, list) and all(_is_count(run) for run in counts)
    if not (isinstance(counts, str) or runs) or not isinstance(stated, list):
        raise ValueError("its segmentation is neither polygons nor RLE ('size' and 'counts')")
    if size is not None and stated != list(size):
        raise ValueError(f"its segmentation has size {stated} where the image has {list(size)} (height, width)")
    if runs and sum(counts) != math.prod(size or stated):
        raise ValueError(
            f"its segmentation counts {sum(counts)} pixels where the image has {math.prod(size or stated)}"
        )
    return value


def segment_area(segment: Any) -> float:
    """Area in square pixels of a sound mask, polygons or RLE."""
    if isinstance(segment, list):
        return sum(_polygon_area(np.asarray(polygon, np.float64)) for polygon in segment)
    if isinstance(segment["counts"], list):
        return float(sum(segment["counts"][1::2]))
    from faster_coco_eval.core import mask

    return float(mask.area(segment))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A bool mask [H, W] as uncompressed RLE: lengths of runs down the columns, background first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def _polygon_area(corners: np.ndarray) -> float:
    """Area of one polygon of 2·n values x, y, by the shoelace formula."""
    x, y = corners[::2], corners[1::2]
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _is_polygon(value: Any) -> bool:
    """Whether a JSON value is a list x1 y1 x2 y2 … of at least three corners, all finite."""
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2 or not set(map(type, value)) <= {int, float}:
        return False
    try:
        return math.isfinite(sum(value))
    except OverflowError:  # an integer beyond float
        return False


def _is_count(value: Any) -> bool:
    """Whether a JSON value can be a run's length."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
