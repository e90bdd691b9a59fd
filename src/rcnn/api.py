"""What Python programs call, the same as the commands: `rcnn.train`, `evaluate`, `predict`, `propose`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rcnn import training
from rcnn.data import Dataset
from rcnn.detectors import Model
from rcnn.detectors.base import Source, pixels_of
from rcnn.detectors.proposing import region_method
from rcnn.errors import RCNNError
from rcnn.evaluation import Result, SegmentationResult, evaluate_model
from rcnn.inference import load
from rcnn.proposals import FoundRegions
from rcnn.report import report_run
from rcnn.training import TrainingResult

__all__ = ["evaluate", "predict", "propose", "train"]


@functools.wraps(training.train)
def train(*args: Any, **options: Any) -> TrainingResult | None:
    """As `training.train`; writes `report.html` in the run folder as well."""
    result = training.train(*args, **options)
    if result is not None:
        try:
            report_run(result.run, device=result.recipe.train.device)
        except RCNNError as error:  # a finished run is not lost because its data has moved or the disk is full
            warnings.warn(f"the run is complete, but its report could not be written: {error}", stacklevel=2)
    return result


def evaluate(
    model: Model[Any] | str | Path,
    data: str | Path | Dataset,
    *,
    split: str = "val",
    classes: Sequence[str] | None = None,
    protocol: str | None = None,
    batch_size: int = 8,
) -> Result | SegmentationResult:
    """Judges a model, or the model of a run or model folder, on a data set; see `rcnn eval`.

    Args:
        model: the detector or its folder.
        data: `digits`, the place of a VOC, COCO or YOLO data set, or an open one.
        split: which part of the data.
        classes: those to judge; None for all, which must then be the model's.
        protocol: "coco", "voc07" or "voc12", or of label maps "segmentation"; None for "coco" or "segmentation".
        batch_size: the most images run at once.

    Raises:
        UserError: something asked for is unknown, or the classes of model and data differ.
    """
    loaded = model if isinstance(model, Model) else load(model)
    return evaluate_model(loaded, data, split=split, classes=classes, protocol=protocol, batch_size=batch_size)


def predict(
    model: Model[Any] | str | Path, images: Source | Iterable[Source], *, score: float = 0.05, batch_size: int = 8
) -> list[Any]:
    """What a model, or that of a run or model folder, finds in each image; see `Model.predict`."""
    loaded = model if isinstance(model, Model) else load(model)
    return loaded.predict(images, score=score, batch_size=batch_size)


def propose(
    image: Source,
    method: str | Path = "selective-search",
    mode: str = "fast",
    *,
    count: int | None = None,
    **settings: Any,
) -> FoundRegions:
    """Regions of an image that may hold objects; see `rcnn propose`.

    Args:
        image: a path, PIL image, numpy [H, W, 3] uint8 RGB, or tensor [3, H, W] (uint8 0–255 or floating 0–1).
        method: "selective-search", or the folder of a run or model with a region proposal network.
        mode: of Selective Search: "fast", "quality" or "single".
        count: the most regions; None for all.
        settings: further ones of `SelectiveSearchOptions`: `sigma`, `min_side`, `overlap`, `width`, `seed`.

    Returns:
        Their numpy `boxes` [N, 4] in pixels of the original image, best first.

    Raises:
        UserError: the image cannot be read, or the method or a setting is unknown.
    """
    finder = region_method(method, count=count, mode=mode, **settings)
    name, pixels = pixels_of(image)
    return FoundRegions(finder(pixels), name, pixels)
