"""A model run over a data set: what it finds in every image, and how that is judged.

Letters: I images, D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data import Dataset, open_dataset
from rcnn.detectors import Detections, Detector, Model, Segmenter
from rcnn.errors import UserError, nearest
from rcnn.evaluation.columns import Prediction, check_classes, meant
from rcnn.evaluation.protocols import Result, check_protocol, evaluate
from rcnn.evaluation.segmentation import PROTOCOL, SegmentationResult, confusion_of, total_of
from rcnn.proposals.regions import CachedRegions, Regions

# Detections below this score hardly change AP, and there are many.
LEAST_SCORE = 0.05


def detect_in(
    model: Detector,
    dataset: Dataset,
    indices: Iterable[int] | None = None,
    *,
    score: float = LEAST_SCORE,
    batch_size: int = 8,
    done: Callable[[int], object] = lambda count: None,
    regions: Regions | None = None,
) -> list[Prediction]:
    """What the model finds in the images `indices` (all by default), labels by the data set's classes.

    Classes of the model that the data set does not have are left out. `done` is called with the number of images
    finished, and may raise to stop. `regions` gives each image's proposals [N, 4]; None lets the model propose, and
    keeps on disk, for the next time, what its method finds.
    """
    rows = list(range(len(dataset)) if indices is None else indices)
    labels = np.array([dataset.classes.index(c) if c in dataset.classes else -1 for c in model.classes])
    found: dict[int, Prediction] = {}
    if regions is None and model.region_method is not None:
        regions = CachedRegions(model.region_method)
    images = (dataset.image(i) for i in rows)
    around = (regions(dataset, i) for i in rows) if regions is not None else None
    for row, detections in model.stream(images, score=score, batch_size=batch_size, regions=around):
        found[row] = _prediction(detections, labels)
        done(len(found))
    return [found[row] for row in range(len(rows))]


def _prediction(detections: Detections, labels: np.ndarray) -> Prediction:
    """Detections with their labels renumbered by `labels` [K]; those that become −1 are dropped."""
    renumbered = labels[detections.labels]
    kept = renumbered >= 0
    left = detections.only(kept)
    return Prediction(left.boxes, left.scores, renumbered[kept], left.segments)


def open_for(model: Model[Any], data: str | Path, split: str = "val", classes: Sequence[str] | None = None) -> Dataset:
    """The data set to evaluate `model` on: its classes must be the model's, or `classes`, which the model must know.

    Raises:
        UserError: class sets that differ, so that a figure would compare different things.
    """
    semantic = isinstance(model, Segmenter)
    if classes is None:
        dataset, known = open_dataset(data, split, semantic=semantic), meant(model.classes)
        check_classes(known, dataset.classes)
        return open_dataset(data, split, classes=known, semantic=semantic)
    if semantic and set(classes) != set(model.classes):
        raise UserError("a label map says one class of each pixel, so its classes are judged all together")
    for name in classes:
        if name not in model.classes:
            raise UserError(f"the model does not know the class '{name}'{nearest(name, model.classes)}")
    return open_dataset(data, split, classes=classes, semantic=semantic)


def _evaluate_segmenter(
    model: Segmenter,
    data: str | Path | Dataset,
    split: str,
    classes: Sequence[str] | None,
    protocol: str | None,
    batch_size: int,
    done: Callable[[int], object],
) -> SegmentationResult:
    """`evaluate_model` of label maps."""
    if protocol not in (None, PROTOCOL):
        raise UserError(f"{model.system} makes label maps, which are judged by '{PROTOCOL}', not by '{protocol}'")
    dataset = data if isinstance(data, Dataset) else open_for(model, data, split, classes)
    if tuple(dataset.classes) != model.classes:
        raise UserError("the data set's classes are not the model's, or stand in another order")
    return total_of(segment_in(model, dataset, batch_size=batch_size, done=done), model.classes)


def segment_in(
    model: Segmenter,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    done: Callable[[int], object] = lambda count: None,
) -> list[np.ndarray]:
    """The confusion matrix [C, C] of each image of a data set of label maps; `done` as of `detect_in`."""
    matrices: dict[int, np.ndarray] = {}
    for i, found in model.stream((dataset.image(i) for i in range(len(dataset))), batch_size=batch_size):
        matrices[i] = confusion_of(dataset.label_map(i), found.labels, len(model.classes) + 1)
        done(len(matrices))
    return [matrices[i] for i in range(len(dataset))]


def evaluate_model(
    model: Model[Any],
    data: str | Path | Dataset,
    *,
    split: str = "val",
    classes: Sequence[str] | None = None,
    protocol: str | None = None,
    batch_size: int = 8,
    done: Callable[[int], object] = lambda count: None,
    regions: Regions | None = None,
) -> Result | SegmentationResult:
    """Judges a model on a data set.

    Args:
        model: a detector, or a segmenter.
        data: a data set, or the place of one.
        split: which part of it.
        classes: those to judge; None for all, which must then be the model's.
        protocol: "coco", "voc07" or "voc12", or of label maps "segmentation"; None for "coco" or "segmentation".
        batch_size: the most images run at once.
        done: called with the number of images finished.
        regions: as of `detect_in`.

    Raises:
        UserError: classes that differ, an unknown split or protocol, broken data.
    """
    if isinstance(model, Segmenter):
        return _evaluate_segmenter(model, data, split, classes, protocol, batch_size, done)
    assert isinstance(model, Detector)
    protocol = protocol or "coco"
    check_protocol(protocol)  # before minutes of detecting
    dataset = data if isinstance(data, Dataset) else open_for(model, data, split, classes)
    for name in dataset.classes:
        if name not in model.classes:
            raise UserError(f"the model does not know the data's class '{name}'{nearest(name, model.classes)}")
    predictions = detect_in(model, dataset, batch_size=batch_size, done=done, regions=regions)
    truths = [dataset.truth(i) for i in range(len(dataset))]
    return evaluate(truths, predictions, dataset.classes, sizes=dataset.sizes, protocol=protocol)
