"""COCO's average precision and recall, for boxes and masks (Lin et al. 2014; cocodataset.org, detection evaluation).

The matching and accumulation are faster-coco-eval's, behind `coco_figures` alone, so that it can be exchanged;
pycocotools is the test oracle. Letters: G ground truths and D predictions of the whole data set, K classes, T overlap
thresholds, R recall levels, A ranges of area, M limits on predictions per image and class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcnn.evaluation.columns import Columns
from rcnn.evaluation.overlaps import areas

# Beyond COCO's largest range of area: such an object is ignored in every range, and unlike a crowd region it excuses
# one prediction only. COCO's evaluators overwrite an annotation's own `ignore` by `iscrowd`, but respect this.
IGNORED_AREA = 1e11

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class CocoFigures:
    """COCO's twelve figures in [0, 1] by the name in `NAMES`, and per class; NaN where there is nothing to find.

    Attributes:
        figures: the twelve means.
        ap, ap50, ap75, ar: [K] per class: AP, AP at IoU 0.5 and 0.75, AR with 100 predictions.
    """

    figures: dict[str, float]
    ap: np.ndarray
    ap50: np.ndarray
    ap75: np.ndarray
    ar: np.ndarray


def coco_figures(
    columns: Columns,
    *,
    segments: Sequence[Any] | None = None,
    masks: Sequence[dict[str, Any]] | None = None,
    sizes: Sequence[tuple[int, int]] | np.ndarray | None = None,
) -> CocoFigures:
    """COCO's figures for boxes, or for masks where `masks` are given.

    Args:
        columns: the data set. Crowd regions excuse any number of predictions, `difficult` objects one each.
        segments: the outline of each of the G objects, a list of polygons or an RLE, or None: gives its area.
        masks: D masks of the predictions as RLE; needs `segments` and `sizes`.
        sizes: [I, 2] height and width of each image in pixels.
    """
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    shapes = [None] * len(columns.truth_labels) if segments is None else segments
    real = object_areas(columns, shapes)
    # Annotated decimals lost digits as float32, and an overlap that lies on a threshold would tip over: thousandths of
    # a pixel bring them back (coco_eval_100 has two such; its AP would be 0.5035 instead of 0.5036).
    xywh = _xywh(columns.truth_boxes).round(3)
    truths = _annotations(columns.truth_image, columns.truth_labels, xywh, real, shapes)
    for annotation, crowd, difficult in zip(truths, columns.crowd.tolist(), columns.difficult.tolist(), strict=True):
        annotation["iscrowd"] = int(crowd)
        if difficult and not crowd:
            annotation["area"] = IGNORED_AREA
    found = _annotations(columns.image, columns.labels, _xywh(columns.boxes), areas(columns.boxes), masks)
    for annotation, score in zip(found, columns.scores.tolist(), strict=True):
        annotation["score"] = score
    frame = {
        "images": [
            {"id": index + 1, "height": int(height), "width": int(width)}
            for index, (height, width) in enumerate([(0, 0)] * columns.images if sizes is None else sizes)
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(columns.classes)],
    }
    judge = COCOeval_faster(
        COCO({**frame, "annotations": truths}),
        COCO({**frame, "annotations": found}),
        "bbox" if masks is None else "segm",
    )
    judge.evaluate()
    judge.accumulate()
    return _read(judge.eval["precision"], judge.eval["recall"])


def object_areas(columns: Columns, segments: Sequence[Any]) -> np.ndarray:
    """The area in square pixels by which COCO calls each object small, medium or large: [G] float64.

    What its annotation states, as COCO's own evaluation takes it; else that of its outline where it has one (polygons
    by their corners, as COCO's files have it); else that of its box.
    """
    from faster_coco_eval.core import mask as rle

    result = areas(columns.truth_boxes)
    for index, segment in enumerate(segments):
        if isinstance(segment, dict):
            counts = segment["counts"]
            result[index] = sum(counts[1::2]) if isinstance(counts, list) else rle.area(segment)
        elif segment:
            result[index] = sum(_polygon_area(polygon) for polygon in segment)
    return np.where(np.isnan(columns.truth_areas), result, columns.truth_areas)


def _polygon_area(polygon: Sequence[float]) -> float:
    """The area of a polygon x1 y1 x2 y2 …, by the shoelace formula."""
    x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] as COCO writes them, x y width height: [N, 4]."""
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)


def _annotations(
    image: np.ndarray, labels: np.ndarray, xywh: np.ndarray, area: np.ndarray, segments: Sequence[Any] | None
) -> list[dict[str, Any]]:
    """COCO annotations of N boxes x y width height [N, 4]; ids start at 1: 0 means unmatched to COCO's evaluators."""
    columns = zip(
        range(1, len(labels) + 1), (image + 1).tolist(), (labels + 1).tolist(), xywh.tolist(), area.tolist(),
        strict=True,
    )  # fmt: skip
    rows = [
        {"id": i, "image_id": where, "category_id": what, "bbox": box, "area": size, "iscrowd": 0}
        for i, where, what, box, size in columns
    ]
    for row, segment in zip(rows, segments or (), strict=False):
        if segment is not None:
            row["segmentation"] = segment
    return rows


def _read(precision: np.ndarray, recall: np.ndarray) -> CocoFigures:
    """The figures from precision [T, R, K, A, M] and recall [T, K, A, M], where −1 means nothing to find."""
    precision, recall = np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)
    everything, small, medium, large, most = 0, 1, 2, 3, -1
    at50, at75 = 0, 5  # of the thresholds 0.50, 0.55, … 0.95
    means = [
        _mean(precision[:, :, :, everything, most]),
        _mean(precision[at50, :, :, everything, most]),
        _mean(precision[at75, :, :, everything, most]),
        *(_mean(precision[:, :, :, area, most]) for area in (small, medium, large)),
        *(_mean(recall[:, :, everything, limit]) for limit in (0, 1, 2)),
        *(_mean(recall[:, :, area, most]) for area in (small, medium, large)),
    ]
    by_class = np.moveaxis(precision[:, :, :, everything, most], 2, 0)  # [K, T, R]
    return CocoFigures(
        figures=dict(zip(NAMES, means, strict=True)),
        ap=np.array([_mean(p) for p in by_class]),
        ap50=np.array([_mean(p[at50]) for p in by_class]),
        ap75=np.array([_mean(p[at75]) for p in by_class]),
        ar=np.array([_mean(r) for r in recall[:, :, everything, most].T]),
    )


def _mean(values: np.ndarray) -> float:
    """The mean of what is there, NaN where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
