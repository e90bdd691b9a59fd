"""Average precision as PASCAL VOC defines it (Everingham et al. 2010, section 4.2; devkit of 2007 and of 2010+).

Detections of a class are taken from the surest on. Each looks at the object of its class and image that it overlaps
most: if they overlap enough and nobody took that object, it is a hit; if the object is difficult, it is neither hit nor
miss; else it is a miss. The same matching gives the precision–recall curves. Letters: G ground truths and D predictions
of the whole data set, K classes, P candidate pairs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rcnn.evaluation.columns import Columns
from rcnn.evaluation.overlaps import covered, iou

Interpolation = Literal["11point", "area"]

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1

# Pairs of prediction and truth that are compared at once: bounds the memory on crowded images (64 bytes each).
PAIRS_AT_ONCE = 1 << 20


def match(
    columns: Columns, *, threshold: float = 0.5, strict: bool = False, legacy_plus_one: bool = False
) -> np.ndarray:
    """What each of boxes [D, 4] is, by the rule of the VOC devkit: [D] `TRUE_POSITIVE`, `FALSE_POSITIVE` or `IGNORED`.

    Predictions that lie in a crowd region of their class by at least `threshold` of their own area, and hit nothing
    else, are `IGNORED` (COCO's rule; VOC has no crowds).

    Args:
        columns: the data set.
        threshold: the overlap a hit needs.
        strict: ask for an overlap above the threshold, as py-faster-rcnn's port does; the devkit asks for at least it.
        legacy_plus_one: boxes hold their right and bottom pixel, so that a width is x2 − x1 + 1, as in the devkit.
    """
    rivals = ~columns.crowd
    best, index = best_overlaps(columns, rivals, legacy_plus_one=legacy_plus_one)
    close = best > threshold if strict else best >= threshold
    close &= index >= 0
    difficult = np.append(columns.difficult, False)[index]  # [D]; index −1 meets the appended one
    outcome = np.full(len(columns.labels), FALSE_POSITIVE, np.int8)
    outcome[close & difficult] = IGNORED
    order = np.argsort(-columns.scores, kind="stable")
    candidates = order[(close & ~difficult)[order]]
    # Of all that claim one object, the surest comes first in `candidates`; np.unique points at it.
    outcome[candidates[np.unique(index[candidates], return_index=True)[1]]] = TRUE_POSITIVE
    if columns.crowd.any():
        in_crowd, crowd = best_overlaps(columns, columns.crowd, share=True)
        outcome[(outcome == FALSE_POSITIVE) & (crowd >= 0) & (in_crowd >= threshold)] = IGNORED
    return outcome


def best_overlaps(
    columns: Columns, rivals: np.ndarray, *, share: bool = False, legacy_plus_one: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The truth of the same image and class that each prediction overlaps most, of those in `rivals` [G] bool.

    Overlap is IoU, or with `share` the share of the prediction that lies in the truth.

    Returns:
        overlap [D] in [0, 1] and index [D] of the truth, the first on ties; 0 and −1 where there is none.
    """
    classes = len(columns.classes)
    places = np.flatnonzero(rivals)
    key = columns.truth_image[places] * classes + columns.truth_labels[places]
    by_key = np.argsort(key, kind="stable")
    places, key = places[by_key], key[by_key]
    asked = columns.image * classes + columns.labels
    first = np.searchsorted(key, asked, "left")  # [D] the run of truths of this image and class
    count = np.searchsorted(key, asked, "right") - first

    overlap, index = np.zeros(len(asked)), np.full(len(asked), -1)
    some = np.flatnonzero(count)
    block = np.cumsum(count[some]) // PAIRS_AT_ONCE
    for part in np.split(some, np.flatnonzero(np.diff(block)) + 1) if len(some) else []:
        n = count[part]
        start = np.cumsum(n) - n  # where each prediction's pairs begin
        pair = np.arange(n.sum()) - np.repeat(start - first[part], n)  # [P] into `places`
        mine, theirs = columns.boxes[np.repeat(part, n)], columns.truth_boxes[places[pair]]
        value = covered(mine, theirs) if share else iou(mine, theirs, plus_one=legacy_plus_one)  # [P]
        best = np.maximum.reduceat(value, start)
        is_best = np.flatnonzero(value == np.repeat(best, n))
        winner = is_best[np.searchsorted(is_best, start)]  # the first best pair of each prediction
        overlap[part], index[part] = best, places[pair[winner]]
    return overlap, index


def precision_recall(
    outcome: np.ndarray, scores: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of one class, from the surest prediction on; predictions that are `IGNORED` leave no point.

    Args:
        outcome: (D,) as of `match`, the class's predictions in the order of the images.
        scores: (D,).
        objects: how many objects are to be found.

    Returns:
        precision [N], recall [N] and score [N] after each of the N predictions that count.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[outcome[order] != IGNORED]
    hits = np.cumsum(outcome[order] == TRUE_POSITIVE, dtype=np.float64)
    return hits / np.arange(1, len(order) + 1), hits / max(objects, 1), scores[order]


def average_precision(precision: np.ndarray, recall: np.ndarray, interpolation: Interpolation = "area") -> float:
    """The average precision of a curve of precision [N] and recall [N], in [0, 1].

    `11point` is VOC2007's mean of the best precision at recall 0, 0.1, … 1 or beyond; `area` is the whole area under
    the curve made monotonic, of VOC2010 and later.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or beyond
    if interpolation == "11point":
        at = np.searchsorted(recall, np.linspace(0, 1, 11), "left")
        return float(np.append(envelope, 0.0)[at].mean())
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def average_precisions(
    columns: Columns,
    *,
    threshold: float = 0.5,
    interpolation: Interpolation = "area",
    strict: bool = False,
    legacy_plus_one: bool = False,
) -> np.ndarray:
    """The average precision of each class: [K] in [0, 1], NaN for classes without an object to find.

    Options as of `match` and `average_precision`.
    """
    outcome = match(columns, threshold=threshold, strict=strict, legacy_plus_one=legacy_plus_one)
    result = np.full(len(columns.classes), np.nan)
    for label, objects in enumerate(columns.objects):
        if objects:
            mine = columns.labels == label
            precision, recall, _ = precision_recall(outcome[mine], columns.scores[mine], int(objects))
            result[label] = average_precision(precision, recall, interpolation)
    return result
