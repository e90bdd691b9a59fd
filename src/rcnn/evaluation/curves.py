"""Precision–recall curves, the confusion matrix and the counts of each kind of error, for reports.

Letters: K classes, N points of a curve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rcnn.evaluation.columns import Prediction, flatten
from rcnn.evaluation.outcomes import CORRECT, ERRORS, IGNORED, WRONG_CLASS, judge
from rcnn.evaluation.voc import IGNORED as NOT_COUNTED
from rcnn.evaluation.voc import average_precision, match, precision_recall

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth

RECALL_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class from its surest prediction on.

    Attributes:
        precision, recall, scores: [N] after each prediction that counts.
        objects: how many objects there are to find.
        ap: area under the monotonic curve.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    objects: int
    ap: float

    def at_levels(self) -> np.ndarray:
        """The best precision at each of `RECALL_LEVELS` or beyond: (101,)."""
        envelope = np.maximum.accumulate(self.precision[::-1])[::-1]
        return np.append(envelope, 0.0)[np.searchsorted(self.recall, RECALL_LEVELS, "left")]


@dataclass(frozen=True)
class Curves:
    """What a report draws beside the figures.

    Attributes:
        threshold: the IoU of a hit.
        score: the score from which predictions enter the confusion matrix and the errors.
        per_class: the curve of each class that has objects, by name.
        confusion: [K + 1, K + 1] counts; rows are what is there, columns what was said, the last of each background.
        errors: how many of each kind of error there are, `missed` among them.
        best_score: the score at which hits and errors of all classes balance best (highest F1), and that F1.
    """

    classes: tuple[str, ...]
    threshold: float
    score: float
    per_class: dict[str, Curve]
    confusion: np.ndarray
    errors: dict[str, int]
    best_score: tuple[float, float]

    @property
    def mean(self) -> np.ndarray:
        """The mean precision of all curves at `RECALL_LEVELS`: (101,)."""
        curves = [curve.at_levels() for curve in self.per_class.values()]
        return np.mean(curves, 0) if curves else np.zeros(len(RECALL_LEVELS))


def find_curves(
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    score: float = 0.5,
) -> Curves:
    """The curves, confusion matrix and errors of a data set at an IoU of `threshold`, and from `score` on."""
    columns = flatten(truths, predictions, classes)
    outcome = match(columns, threshold=threshold)
    per_class = {}
    for label, (name, objects) in enumerate(zip(classes, columns.objects.tolist(), strict=True)):
        if objects:
            mine = columns.labels == label
            precision, recall, scores = precision_recall(outcome[mine], columns.scores[mine], objects)
            per_class[name] = Curve(precision, recall, scores, objects, average_precision(precision, recall))
    confusion, errors = _confusion(truths, predictions, len(classes), threshold, score)
    return Curves(
        classes=tuple(classes),
        threshold=threshold,
        score=score,
        per_class=per_class,
        confusion=confusion,
        errors=errors,
        best_score=_best_score(outcome, columns.scores, int(columns.objects.sum())),
    )


def _confusion(
    truths: Sequence[Truth], predictions: Sequence[Prediction], classes: int, threshold: float, score: float
) -> tuple[np.ndarray, dict[str, int]]:
    """The confusion matrix [K + 1, K + 1], and the number of errors by kind."""
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    counts: Counter[str] = Counter()
    for truth, prediction in zip(truths, predictions, strict=True):
        outcome = judge(truth, prediction, threshold=threshold, score=score)
        counts.update(outcome.kinds)
        counts["missed"] += len(outcome.missed)
        confusion[:-1, -1] += np.bincount(truth.labels[outcome.missed], minlength=classes)
        for shown, kind, index in zip(outcome.shown, outcome.kinds, outcome.objects, strict=True):
            if kind != IGNORED:
                there = truth.labels[index] if kind in (CORRECT, WRONG_CLASS) and index >= 0 else classes
                confusion[there, prediction.labels[shown]] += 1
    return confusion, {kind: counts[kind] for kind in (*ERRORS, "missed")}


def _best_score(outcome: np.ndarray, scores: np.ndarray, objects: int) -> tuple[float, float]:
    """The score with the highest F1 of predictions [D] of all classes together, and that F1; 0 without predictions."""
    if not objects or not (outcome != NOT_COUNTED).any():
        return 0.0, 0.0
    precision, recall, ordered = precision_recall(outcome, scores, objects)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    return float(ordered[best]), float(f1[best])
