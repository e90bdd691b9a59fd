"""What is evaluated: predictions per image, and all images of a data set flattened into columns.

Every evaluator here works on the columns, so none loops over images in Python more than it must, and all see the same
cleaned predictions. Letters: G ground truths and D predictions of the whole data set (or of one image, where said).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnn.errors import RCNNError, UserError, nearest

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth


# A class of a model whose name begins so stands for none: COCO's numbers have gaps, and networks outputs for them.
NO_CLASS = "N/A"


@dataclass
class Prediction:
    """What a model found in one image, in any order.

    Attributes:
        boxes: [D, 4] x1 y1 x2 y2 in pixels of the original image.
        scores: [D], higher is surer.
        labels: [D] integers that index the classes.
        masks: D run-length encoded masks as COCO writes them, or None where the model has no mask branch.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Columns:
    """The ground truths and predictions of a data set, flattened in the order of its images.

    Attributes:
        images: how many images there are, those without objects or predictions included.
        classes: the K class names that labels index.
        truth_image: [G] index of the image.
        truth_boxes: [G, 4] float64 pixels.
        truth_labels: [G].
        difficult: [G] bool, objects that count neither as found nor as missed.
        crowd: [G] bool, regions that may hold many objects.
        truth_areas: [G] float64 square pixels as the annotations state them, NaN where they state none.
        image: [D] index of the image of each prediction.
        boxes: [D, 4] float64 pixels.
        scores: [D] float64.
        labels: [D].
        dropped: how many predictions were left out because their box or score was not finite.
    """

    images: int
    classes: tuple[str, ...]
    truth_image: np.ndarray
    truth_boxes: np.ndarray
    truth_labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    truth_areas: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    dropped: int

    @property
    def counted(self) -> np.ndarray:
        """The objects, of boxes [G, 4], that a detector is asked to find: [G] bool."""
        return ~(self.difficult | self.crowd)

    @property
    def objects(self) -> np.ndarray:
        """How many objects of each class are to be found: (K,)."""
        return np.bincount(self.truth_labels[self.counted], minlength=len(self.classes))

    @property
    def found(self) -> np.ndarray:
        """How many predictions of each class there are: (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


def finite(prediction: Prediction) -> np.ndarray:
    """Which predictions of an image, boxes [D, 4] and their scores, are finite: [D] bool."""
    boxes, scores = np.asarray(prediction.boxes, np.float64), np.asarray(prediction.scores, np.float64)
    return np.isfinite(boxes.reshape(-1, 4)).all(1) & np.isfinite(scores)


def flatten(truths: Sequence[Truth], predictions: Sequence[Prediction], classes: Sequence[str]) -> Columns:
    """The columns of a data set; predictions that are not finite are left out and counted.

    Raises:
        RCNNError: there is not one prediction per truth, or a label lies outside `classes`.
    """
    if len(truths) != len(predictions):
        raise RCNNError(f"there are predictions for {len(predictions)} images but ground truth for {len(truths)}")
    keep = _joined([finite(p) for p in predictions], bool)
    columns = Columns(
        images=len(truths),
        classes=tuple(classes),
        truth_image=np.repeat(np.arange(len(truths)), [len(t.labels) for t in truths]),
        truth_boxes=_joined([t.boxes for t in truths], np.float64).reshape(-1, 4),
        truth_labels=_joined([t.labels for t in truths], np.int64),
        difficult=_joined([t.difficult for t in truths], bool),
        crowd=_joined([t.crowd for t in truths], bool),
        truth_areas=_joined(
            [np.full(len(t.labels), np.nan) if t.areas is None else t.areas for t in truths], np.float64
        ),
        image=np.repeat(np.arange(len(truths)), [len(p.labels) for p in predictions])[keep],
        boxes=_joined([p.boxes for p in predictions], np.float64).reshape(-1, 4)[keep],
        scores=_joined([p.scores for p in predictions], np.float64)[keep],
        labels=_joined([p.labels for p in predictions], np.int64)[keep],
        dropped=int((~keep).sum()),
    )
    for what, labels in (("ground truth", columns.truth_labels), ("prediction", columns.labels)):
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            raise RCNNError(
                f"a {what} has label {wrong[0]}; {len(classes)} classes have labels 0 to {len(classes) - 1}"
            )
    return columns


def flatten_masks(predictions: Sequence[Prediction]) -> list[dict[str, Any]] | None:
    """The masks of all predictions that `flatten` keeps, in its order; None where some image has none."""
    if not predictions or any(p.masks is None for p in predictions):
        return None
    kept = chain.from_iterable(zip(p.masks or (), finite(p), strict=True) for p in predictions)
    return [mask for mask, good in kept if good]


def meant(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a model without those that stand for none."""
    return tuple(name for name in classes if not name.startswith(NO_CLASS))


def check_classes(model: Sequence[str], data: Sequence[str]) -> np.ndarray:
    """Which label of the data each label of the model means: a permutation (K,), int64.

    Raises:
        UserError: the two do not name the same classes, so figures would compare different things.
    """
    position = {name: index for index, name in enumerate(data)}
    unknown = [name for name in model if name not in position]
    missing = [name for name in data if name not in set(model)]
    if unknown:
        raise UserError(
            f"the model's class '{unknown[0]}' is not in the data{_others(unknown)}{nearest(unknown[0], data)}"
        )
    if missing:
        raise UserError(
            f"the data's class '{missing[0]}' is not known to the model{_others(missing)}{nearest(missing[0], model)}; "
            "choose the classes to evaluate with --classes"
        )
    return np.array([position[name] for name in model], np.int64)


def _others(names: Sequence[str]) -> str:
    """' (nor are n others)' where more than one name is wrong."""
    return "" if len(names) == 1 else f" (nor {len(names) - 1} more)"


def _joined(arrays: Sequence[Any], dtype: type) -> np.ndarray:
    """One array of all, also where there are none."""
    return np.concatenate([np.asarray(a, dtype) for a in arrays]) if arrays else np.zeros(0, dtype)
