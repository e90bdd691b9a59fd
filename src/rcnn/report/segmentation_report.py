"""The report of a run that learnt label maps: figures, classes, how training went, pictures beside the truth.

`templates/segmentation.html` is the page. C classes, background included.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data.semantic import overlay
from rcnn.evaluation.segmentation import SegmentationResult
from rcnn.files import write_text
from rcnn.report.run_report import PICTURE_SIDE, PICTURES, data_url, matrix_of, pace_of, rendered, training_charts


@dataclass(frozen=True)
class MapSample:
    """An image to show: uint8 [H, W, 3] RGB, its label map and the found one [H, W], its name, and its mean IoU."""

    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    name: str
    quality: float


def write_segmentation_report(
    run: Path,
    *,
    metrics: Sequence[Mapping[str, Any]],
    result: SegmentationResult,
    samples: Sequence[MapSample],
    recipe: str,
    environment: Mapping[str, Any],
    title: str = "",
    data: str = "DATA",
) -> Path:
    """Writes `report.html` into the run folder, and the curves as pictures into its `plots`; gives the report's path.

    Args:
        run: the run folder.
        metrics: rows of the training log, as of `write_run_report`; of the figures `mIoU` is drawn.
        result: the final evaluation.
        samples: images to show; the worst and the best of them by mean IoU are chosen.
        recipe: the resolved recipe as TOML text.
        environment: what the run was made with, by name.
        title: the heading; the folder's name where empty.
        data: how the data set is called in the example commands.

    Raises:
        UserError: the folder cannot be written to.
    """
    from rcnn.report.plots import write_segmentation_plots

    ordered = sorted(samples, key=lambda sample: sample.quality)
    worst = ordered[:PICTURES]
    best = ordered[len(worst) :][::-1][:PICTURES]
    model, classes = shlex.quote(str(run)), len(result.classes) - 1
    text = rendered(
        "segmentation.html",
        title=title or run.name,
        result=result,
        charts=training_charts(metrics),
        matrix=matrix_of(result.confusion, result.classes[:-1]),
        worst=[_picture(sample, classes) for sample in worst],
        best=[_picture(sample, classes) for sample in best],
        commands=[
            ("Label your own pictures", f"rcnn predict {model} PICTURES --out labelled"),
            ("Evaluate it again", f"rcnn eval {model} --data {shlex.quote(data)}"),
            ("Use it from Python", f'rcnn.load({str(run)!r}).predict(["photo.jpg"])[0].save_labels("photo.png")'),
        ],
        recipe=recipe.strip(),
        environment={key: str(value) for key, value in environment.items()},
        pace=pace_of(metrics),
    )
    write_text(run / "report.html", text)
    write_segmentation_plots(run / "plots", metrics, result)
    return run / "report.html"


def _picture(sample: MapSample, classes: int) -> dict[str, str]:
    """A sample drawn twice, with its true and with the found classes, as a data URL, its name and mean IoU."""
    pair = [overlay(sample.image, labels, classes) for labels in (sample.truth, sample.found)]
    picture = Image.fromarray(np.concatenate(pair, 1))
    picture.thumbnail((2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
    return {"name": sample.name, "url": data_url(picture), "words": f"mean IoU {sample.quality:.3f}"}
