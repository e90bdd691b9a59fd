"""Label maps judged pixel by pixel: the four figures of Long et al. 2015, section 5, by one confusion matrix.

With n_ij pixels of class i said to be class j, t_i = Σ_j n_ij of class i, and u_i = t_i + Σ_j n_ji − n_ii in either:
pixel accuracy Σ n_ii / Σ t_i, mean accuracy of n_ii / t_i, mean IoU of n_ii / u_i, and that mean weighted by t_i. Void
pixels are left out. Letters: C classes, background included, H W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcnn.data.semantic import VOID
from rcnn.errors import RCNNError

PROTOCOL = "segmentation"
FIGURES = ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU")


def confusion_of(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class are said to be of each: int64 [C, C], rows the truth's.

    Args:
        truth: label map [H, W] of 0 … C − 1, 255 for void.
        found: label map [H, W] of 0 … C − 1.
        classes: C.

    Raises:
        RCNNError: the maps differ in size, or hold other labels.
    """
    if truth.shape != found.shape:
        raise RCNNError(f"label maps of {list(found.shape)} cannot be judged by truth of {list(truth.shape)}")
    judged = truth != VOID
    rows, columns = truth[judged].astype(np.int64), found[judged].astype(np.int64)
    if rows.size and max(rows.max(), columns.max()) >= classes:
        raise RCNNError(f"label maps hold labels beyond the {classes} classes, background included")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class SegmentationResult:
    """What an evaluation of label maps found; every figure a fraction in [0, 1], NaN where there is nothing to judge.

    Attributes:
        classes: C names, background the last.
        confusion: int64 [C, C] pixels, rows the truth's.
        images: how many images were looked at.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    images: int

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return PROTOCOL

    @property
    def pixel_accuracy(self) -> float:
        """The share of the pixels that are right."""
        return _ratio(self.confusion.trace(), self.confusion.sum())

    @property
    def accuracies(self) -> np.ndarray:
        """[C] the share of each class's pixels that are right."""
        return _ratios(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def ious(self) -> np.ndarray:
        """[C] intersection over union of each class."""
        either = self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal()
        return _ratios(self.confusion.diagonal(), either)

    @property
    def mean_accuracy(self) -> float:
        """The mean of `accuracies` over the classes that there are pixels of."""
        return _mean(self.accuracies)

    @property
    def mIoU(self) -> float:
        """The mean of `ious` over the classes that are there or were said to be."""
        return _mean(self.ious)

    @property
    def fw_IoU(self) -> float:
        """The mean of `ious`, weighted by each class's pixels."""
        pixels = self.confusion.sum(1)
        return _ratio(float((pixels * np.nan_to_num(self.ious)).sum()), pixels.sum())

    @property
    def rules(self) -> tuple[str, ...]:
        """The protocol in sentences, as far as it concerns these data."""
        rules = ["every pixel counts once, void ones not at all", "background is a class of the mean"]
        absent = [name for name, iou in zip(self.classes, self.ious, strict=True) if np.isnan(iou)]
        if absent:
            rules.append(f"classes that are neither there nor found are left out of the mean: {', '.join(absent)}")
        return tuple(rules)

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """By class name: `IoU`, `accuracy`, `pixels` of it and `predicted` ones."""
        columns = self.ious.tolist(), self.accuracies.tolist(), self.confusion.sum(1).tolist()
        rows = zip(self.classes, *columns, self.confusion.sum(0).tolist(), strict=True)
        return {name: {"IoU": i, "accuracy": a, "pixels": t, "predicted": p} for name, i, a, t, p in rows}

    def figures(self) -> dict[str, float]:
        """The four figures by name, the mean IoU first."""
        return {name: getattr(self, name) for name in FIGURES}

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values for JSON; figures that do not exist are None."""
        result = {
            "protocol": PROTOCOL,
            "rules": list(self.rules),
            "images": self.images,
            **self.figures(),
            "per_class": self.per_class,
            "confusion": {"classes": list(self.classes), "pixels": self.confusion.tolist()},
        }
        return _without_nan(result)

    def summary(self) -> str:
        """A table of the classes and the figures, with the rules below it, as lines of text."""
        width = max(len(name) for name in (*self.classes, "class"))
        lines = [f"{'class':{width}}    IoU  accuracy  share of pixels  predicted"]
        total = max(int(self.confusion.sum()), 1)
        for name, row in self.per_class.items():
            lines.append(
                f"{name:{width}} {_figure(row['IoU'])}    {_figure(row['accuracy'])}"
                f" {row['pixels'] / total:15.1%} {row['predicted'] / total:10.1%}"
            )
        titles = {"mIoU": "mean IoU", "fw_IoU": "frequency-weighted IoU"}
        figures = (f"{titles.get(n, n.replace('_', ' '))} {_figure(v).strip()}" for n, v in self.figures().items())
        lines.append(" · ".join(figures))
        lines.append(f"{PROTOCOL}, {self.images} images: {'; '.join(self.rules)}.")
        return "\n".join(lines)


def total_of(confusions: Sequence[np.ndarray], classes: Sequence[str]) -> SegmentationResult:
    """The result of images' confusion matrices [C, C], of `classes` and background."""
    names = (*classes, "background")
    total = np.zeros((len(names), len(names)), np.int64)
    for confusion in confusions:
        total += confusion
    return SegmentationResult(names, total, len(confusions))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """[C] quotients, NaN where there is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _figure(value: float) -> str:
    """A fraction in six columns, a dash where there is none."""
    return "     –" if np.isnan(value) else f"{value:6.3f}"


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
