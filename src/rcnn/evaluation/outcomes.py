"""What became of each prediction and each object of an image, in the words of an error analysis.

The kinds follow TIDE (Bolya et al. 2020, section 3.1) at one score threshold: a false positive is a duplicate, has the
wrong class, lies poorly, or has nothing below it; an object that nobody found is missed. Letters: G ground truths and
D predictions of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rcnn.evaluation.columns import Prediction, finite
from rcnn.evaluation.overlaps import covered, iou

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth

CORRECT, DUPLICATE, WRONG_CLASS, POORLY_PLACED, NOTHING_THERE, IGNORED = (
    "correct",
    "duplicate",
    "wrong class",
    "poorly placed",
    "nothing there",
    "ignored",
)
ERRORS = (DUPLICATE, WRONG_CLASS, POORLY_PLACED, NOTHING_THERE)

# An overlap below this is nobody's (TIDE's background threshold).
FAINT = 0.1


@dataclass(frozen=True)
class Outcome:
    """What happened in one image.

    Attributes:
        shown: [D] indices of the predictions that reach the score, the surest first.
        kinds: one of the kinds for each of `shown`.
        objects: [D] index of the object it concerns, −1 where there is none.
        missed: [M] indices of the objects that no prediction found, not even under a wrong class.
    """

    shown: np.ndarray
    kinds: tuple[str, ...]
    objects: np.ndarray
    missed: np.ndarray

    @property
    def correct(self) -> int:
        """How many objects were found."""
        return self.kinds.count(CORRECT)

    @property
    def wrong(self) -> int:
        """How many errors there are: false positives and missed objects."""
        return sum(self.kinds.count(kind) for kind in ERRORS) + len(self.missed)

    @property
    def quality(self) -> float:
        """Twice the hits by twice the hits plus the errors, in [0, 1]; 1 where there is nothing to find or to blame."""
        return 2 * self.correct / (2 * self.correct + self.wrong) if self.correct + self.wrong else 1.0


def judge(truth: Truth, prediction: Prediction, *, threshold: float = 0.5, score: float = 0.5) -> Outcome:
    """What became of each prediction of an image that reaches `score`, at an IoU of `threshold`.

    The surest prediction chooses first, and takes the free object of its class that it overlaps most. Boxes are [D, 4]
    and [G, 4] in pixels.
    """
    scores = np.asarray(prediction.scores, np.float64)
    shown = np.flatnonzero(finite(prediction) & (scores >= score))
    shown = shown[np.argsort(-scores[shown], kind="stable")]
    boxes, labels = np.asarray(prediction.boxes, np.float64).reshape(-1, 4)[shown], np.asarray(prediction.labels)[shown]
    objects = np.asarray(truth.boxes, np.float64).reshape(-1, 4)
    overlap = iou(boxes[:, None], objects[None])  # [D, G]
    inside = covered(boxes[:, None], objects[None])
    same = labels[:, None] == np.asarray(truth.labels)[None]
    excused = (same & truth.ignore & (np.where(truth.crowd, inside, overlap) >= threshold)).any(1)  # [D]
    overlap[:, truth.ignore] = 0

    kinds, concerned = [NOTHING_THERE] * len(shown), np.full(len(shown), -1)
    free = ~truth.ignore
    for d in range(len(shown)):
        best = _best(overlap[d] * (same[d] & free))
        if best >= 0 and overlap[d, best] >= threshold:
            kinds[d], concerned[d], free[best] = CORRECT, best, False
    for d in range(len(shown)):
        if kinds[d] == CORRECT:
            continue
        own, other, left = (_best(overlap[d] * which) for which in (same[d], ~same[d], ~same[d] & free))
        if excused[d]:
            kinds[d] = IGNORED
        elif own >= 0 and overlap[d, own] >= threshold:
            kinds[d], concerned[d] = DUPLICATE, own
        elif left >= 0 and overlap[d, left] >= threshold:
            kinds[d], concerned[d], free[left] = WRONG_CLASS, left, False
        elif other >= 0 and overlap[d, other] >= threshold:
            kinds[d] = WRONG_CLASS
        elif own >= 0 and overlap[d, own] >= FAINT:
            kinds[d], concerned[d] = POORLY_PLACED, own
    return Outcome(shown, tuple(kinds), concerned, np.flatnonzero(free))


def rank_images(truths: Sequence[Truth], predictions: Sequence[Prediction], *, score: float = 0.5) -> np.ndarray:
    """Indices (I,) of the images, the best one first: by quality, then by hits less errors."""
    outcomes = [judge(t, p, score=score) for t, p in zip(truths, predictions, strict=True)]
    keys = [(-o.quality, o.wrong - o.correct) for o in outcomes]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _best(values: np.ndarray) -> int:
    """Index of the highest of values [G] above 0, −1 where there is none."""
    best = int(values.argmax()) if values.size else -1
    return best if best >= 0 and values[best] > 0 else -1
