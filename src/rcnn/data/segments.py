"""Masks as COCO writes them: polygons, or run-length encoding (RLE), compressed or not.

They are carried as plain JSON values, in pixels of the image that was annotated; where an image is resized or
augmented, a `Frame` says how its pixels lie in that one, and the masks stay as they are. H W are height and width in
pixels, R runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from rcnn import rle


@dataclass(frozen=True)
class Frame:
    """Where the pixels of a resized or augmented image lie in the one that was annotated: x ↦ scale·x + shift.

    Attributes:
        size: height and width in pixels of the annotated image.
        scale: of x and of y; negative where the image was mirrored.
        shift: of x and of y, in pixels of the annotated image.
        window: x1 y1 x2 y2 in pixels of the annotated image, what of it a crop left; None for all.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    window: tuple[float, float, float, float] | None = None

    @property
    def visible(self) -> tuple[float, float, float, float]:
        """x1 y1 x2 y2 of what is left of the annotated image, in its pixels."""
        return self.window or (0.0, 0.0, float(self.size[1]), float(self.size[0]))

    def moved(self, x: float, y: float) -> Self:
        """The frame of an image whose pixel (0, 0) is this one's (x, y), as where a canvas is put around it."""
        (sx, sy), (tx, ty) = self.scale, self.shift
        return replace(self, shift=(tx + sx * x, ty + sy * y))

    def cropped(self, x: float, y: float, width: float, height: float) -> Self:
        """The frame of the crop of that size whose pixel (0, 0) is this one's (x, y)."""
        moved, (x1, y1, x2, y2) = self.moved(x, y), self.visible
        xs = sorted((moved.shift[0], moved.shift[0] + moved.scale[0] * width))
        ys = sorted((moved.shift[1], moved.shift[1] + moved.scale[1] * height))
        return replace(moved, window=(max(x1, xs[0]), max(y1, ys[0]), min(x2, xs[1]), min(y2, ys[1])))

    def resized(self, before: tuple[int, ...], after: tuple[int, ...]) -> Self:
        """The frame after the image's (height, width) went from `before` to `after`."""
        return replace(self, scale=(self.scale[0] * before[1] / after[1], self.scale[1] * before[0] / after[0]))

    def mirrored(self, width: float = 0.0, height: float = 0.0) -> Self:
        """The frame of the image mirrored left–right, of that width, or top–bottom, of that height."""
        (sx, sy), moved = self.scale, self.moved(width, height)
        return replace(moved, scale=(-sx if width else sx, -sy if height else sy))


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
    try:
        found = rle.counts(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its segmentation is no RLE: {error}") from error
    if not found[1::2].any():
        raise ValueError("its segmentation is empty: the RLE has no pixel")
    return value


def segment_area(segment: Any) -> float:
    """Area in square pixels of a sound mask, polygons or RLE."""
    if isinstance(segment, list):
        return sum(_polygon_area(np.asarray(polygon, np.float64)) for polygon in segment)
    return float(rle.counts(segment)[1::2].sum())


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A bool mask [H, W] as uncompressed RLE: lengths of runs down the columns, background first."""
    return {"size": list(mask.shape), "counts": rle.encode(mask).tolist()}


def segment_runs(segment: Any, size: tuple[int, int]) -> np.ndarray:
    """The runs int64 [R] of a sound mask in an image of `size` (height, width); polygons are drawn by COCO's rule."""
    if isinstance(segment, dict):
        return rle.counts(segment)
    from faster_coco_eval.core import mask

    drawn: Any = mask.frPyObjects([[float(value) for value in polygon] for polygon in segment], *size)
    return rle.counts(mask.merge(drawn))


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
