"""One call that evaluates predictions by a named protocol, and a result that says by which rules it was found.

A figure means nothing without its protocol: interpolation, overlap thresholds, what becomes of difficult objects and
crowds, and which classes make up the mean are part of the result and are printed with it. K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnn.errors import UserError, nearest
from rcnn.evaluation.coco import NAMES, coco_figures
from rcnn.evaluation.columns import Columns, Prediction, flatten, flatten_masks
from rcnn.evaluation.voc import Interpolation, average_precisions

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth

# Of each protocol, one phrase per rule.
RULES = {
    "coco": (
        "AP is the mean over IoU 0.50:0.05:0.95 of precision at 101 recall levels",
        "at most 100 predictions per image and class",
        "crowd regions excuse any number of predictions, difficult objects one each; neither counts",
    ),
    "voc07": (
        "AP is the mean precision at 11 recall levels (VOC2007), IoU ≥ 0.5",
        "each object is matched once, by the surest prediction",
        "difficult objects and crowd regions neither count nor punish",
    ),
    "voc12": (
        "AP is the area under the precision–recall curve (VOC2010 and later), IoU ≥ 0.5",
        "each object is matched once, by the surest prediction",
        "difficult objects and crowd regions neither count nor punish",
    ),
}
INTERPOLATION: dict[str, Interpolation] = {"voc07": "11point", "voc12": "area"}


@dataclass
class Result:
    """What an evaluation found; every figure a fraction in [0, 1], NaN where there is nothing to find.

    Attributes:
        protocol: `coco`, `voc07` or `voc12`.
        images: how many images were looked at.
        mAP: the protocol's own mean.
        AP50, AP75: the mean at one overlap, by the protocol's interpolation.
        per_class: by class name: `AP`, `AP50`, `AP75`, `objects` to find, `predictions`; COCO adds `AR`.
        extra: COCO's figures by size and recall (`APs` … `ARl`), else empty.
        mask: the mean figures of the masks, None where there are none.
        dropped: predictions left out because their box or score was not finite.
    """

    protocol: str
    images: int
    mAP: float
    AP50: float
    AP75: float
    per_class: dict[str, dict[str, float]]
    extra: dict[str, float] = field(default_factory=dict)
    mask: dict[str, float] | None = None
    dropped: int = 0

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without an object to find: they are not in the mean."""
        return tuple(name for name, figures in self.per_class.items() if not figures["objects"])

    @property
    def rules(self) -> tuple[str, ...]:
        """The protocol in sentences, as far as it concerns these data."""
        rules = [*RULES[self.protocol]]
        if self.absent:
            rules.append(f"classes without an object are left out of the mean: {', '.join(self.absent)}")
        if self.dropped:
            rules.append(f"{self.dropped} predictions with a box or score that is not finite were left out")
        return tuple(rules)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values for JSON; figures that do not exist are None."""
        result = {
            "protocol": self.protocol,
            "rules": list(self.rules),
            "images": self.images,
            "mAP": self.mAP,
            "AP50": self.AP50,
            "AP75": self.AP75,
            **self.extra,
            **({"mask": self.mask} if self.mask else {}),
            "per_class": self.per_class,
            "absent": list(self.absent),
            "dropped": self.dropped,
        }
        return _without_nan(result)

    def summary(self) -> str:
        """A table of the classes and the means, with the rules below it, as lines of text."""
        width = max(len(name) for name in (*self.per_class, "class", "all"))
        lines = [f"{'class':{width}}  objects  predicted     AP   AP50   AP75"]
        for name, row in self.per_class.items():
            lines.append(
                f"{name:{width}} {int(row['objects']):8d} {int(row['predictions']):10d} "
                f"{_figure(row['AP'])} {_figure(row['AP50'])} {_figure(row['AP75'])}"
            )
        objects = int(sum(row["objects"] for row in self.per_class.values()))
        found = int(sum(row["predictions"] for row in self.per_class.values()))
        means = f"{_figure(self.mAP)} {_figure(self.AP50)} {_figure(self.AP75)}"
        lines.append(f"{'all':{width}} {objects:8d} {found:10d} {means}")
        for title, figures in (("", self.extra), ("mask ", self.mask or {})):
            if figures:
                lines.append("  ".join(f"{title}{name} {_figure(value).strip()}" for name, value in figures.items()))
        lines.append(f"{self.protocol}, {self.images} images: {'; '.join(self.rules)}.")
        return "\n".join(lines)


def check_protocol(protocol: str) -> None:
    """Raises a `UserError` that names the nearest protocol where there is no such one."""
    if protocol == "segmentation":
        raise UserError("the protocol 'segmentation' judges label maps, which only an FCN makes")
    if protocol not in RULES:
        raise UserError(f"there is no protocol '{protocol}'{nearest(protocol, RULES)}")


def evaluate(
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    *,
    sizes: Sequence[tuple[int, int]] | np.ndarray | None = None,
    protocol: str = "coco",
) -> Result:
    """Evaluates predictions against the truth, image by image in the same order.

    Args:
        truths: what is in each image.
        predictions: what was found in it, in pixels of the same image.
        classes: the K names that the labels of both index.
        sizes: [I, 2] height and width of each image in pixels; needed for masks only.
        protocol: `coco`, `voc07` or `voc12`. Masks are evaluated by `coco` where predictions and truths have them.

    Raises:
        UserError: there is no such protocol.
        RCNNError: truths and predictions do not fit together.
    """
    check_protocol(protocol)
    columns = flatten(truths, predictions, classes)
    if protocol == "coco":
        return _coco(columns, truths, predictions, sizes)
    interpolation = INTERPOLATION[protocol]
    at50 = average_precisions(columns, threshold=0.5, interpolation=interpolation)
    at75 = average_precisions(columns, threshold=0.75, interpolation=interpolation)
    mean50, mean75 = _mean(at50), _mean(at75)
    return Result(
        protocol=protocol,
        images=columns.images,
        mAP=mean50,
        AP50=mean50,
        AP75=mean75,
        per_class=_per_class(columns, AP=at50, AP50=at50, AP75=at75),
        dropped=columns.dropped,
    )


def _coco(
    columns: Columns,
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
    sizes: Sequence[tuple[int, int]] | np.ndarray | None,
) -> Result:
    """COCO's figures of boxes, and of masks where there are some."""
    segments = [segment for truth in truths for segment in truth.segments]
    boxes = coco_figures(columns, segments=segments)
    masks = flatten_masks(predictions)
    mask = None
    if masks is not None and sizes is not None and all(segment is not None for segment in segments):
        figures = coco_figures(columns, segments=segments, masks=masks, sizes=sizes).figures
        mask = {"mAP": figures["AP"], **{name: figures[name] for name in NAMES[1:]}}
    return Result(
        protocol="coco",
        images=columns.images,
        mAP=boxes.figures["AP"],
        AP50=boxes.figures["AP50"],
        AP75=boxes.figures["AP75"],
        per_class=_per_class(columns, AP=boxes.ap, AP50=boxes.ap50, AP75=boxes.ap75, AR=boxes.ar),
        extra={name: boxes.figures[name] for name in NAMES[3:]},
        mask=mask,
        dropped=columns.dropped,
    )


def _per_class(columns: Columns, **figures: np.ndarray) -> dict[str, dict[str, float]]:
    """A row per class of figures [K] and counts."""
    counts = {"objects": columns.objects, "predictions": columns.found}
    rows = {}
    for label, name in enumerate(columns.classes):
        rows[name] = {key: float(values[label]) for key, values in figures.items()}
        rows[name] |= {key: int(values[label]) for key, values in counts.items()}
    return rows


def _mean(values: np.ndarray) -> float:
    """The mean over the classes that have a figure, NaN where none has."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else math.nan


def _figure(value: float) -> str:
    """A fraction in six columns, a dash where there is none."""
    return "     –" if math.isnan(value) else f"{value:6.3f}"


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
