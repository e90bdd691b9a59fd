"""The report of a training run: one HTML file with figures, curves, pictures and how to use the model.

The numbers come first, each with its protocol; then how training went, where the model errs, and what that looks like.
`templates/run.html` is the page, `templates/base.html` what it shares with others; this module fills it. K classes, G
objects and D predictions of an image.
"""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rcnn.data.pictures import Mark, draw_marks
from rcnn.evaluation.columns import Prediction
from rcnn.evaluation.curves import RECALL_LEVELS, Curves
from rcnn.evaluation.outcomes import (
    CORRECT,
    DUPLICATE,
    IGNORED,
    NOTHING_THERE,
    POORLY_PLACED,
    WRONG_CLASS,
    Outcome,
    judge,
)
from rcnn.evaluation.protocols import Result
from rcnn.files import write_text
from rcnn.report.charts import Series, line_chart, smoothed
from rcnn.report.history import column, loss_parts

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth

PICTURES = 6  # of the best and of the worst
PICTURE_SIDE = 720  # pixels
MATRIX_CLASSES = 24  # more do not fit a page

COLOURS = {
    CORRECT: (36, 160, 88),
    WRONG_CLASS: (232, 62, 66),
    DUPLICATE: (232, 62, 66),
    POORLY_PLACED: (232, 62, 66),
    NOTHING_THERE: (232, 62, 66),
    IGNORED: (128, 128, 128),
    "missed": (245, 166, 22),
}


@dataclass(frozen=True)
class Sample:
    """An image to show: uint8 [H, W, 3] RGB, what is in it, what was found, its name, and its loss if it is known."""

    image: np.ndarray
    truth: Truth
    prediction: Prediction
    name: str
    loss: float | None = None


def write_run_report(
    run: Path,
    *,
    metrics: Sequence[Mapping[str, Any]],
    result: Result,
    curves: Curves,
    samples: Sequence[Sample],
    recipe: str,
    environment: Mapping[str, Any],
    title: str = "",
    data: str = "DATA",
) -> Path:
    """Writes `report.html` into the run folder, and the curves as pictures into its `plots`; gives the report's path.

    Args:
        run: the run folder.
        metrics: rows of the training log: `step`, `loss`, `loss_…`, `lr`, `images_per_second`, `val_loss`, `mAP`,
            `AP50`; what a row lacks is left out of the curves.
        result: the final evaluation.
        curves: its curves, as of `evaluation.find_curves`.
        samples: images to show; the worst and the best of them are chosen (`evaluation.rank_images` finds such).
        recipe: the resolved recipe as TOML text.
        environment: what the run was made with, by name.
        title: the heading; the folder's name where empty.
        data: how the data set is called in the example commands.

    Raises:
        UserError: the folder cannot be written to.
    """
    from rcnn.report.plots import write_plots

    worst, best = _choose(samples, curves)
    text = rendered(
        "run.html",
        title=title or run.name,
        result=result,
        objects=sum(int(row["objects"]) for row in result.per_class.values()),
        curves=curves,
        charts=training_charts(metrics),
        precision_recall=_precision_recall_chart(curves),
        matrix=matrix_of(curves.confusion, curves.classes),
        worst=[_picture(sample, outcome, result) for sample, outcome in worst],
        best=[_picture(sample, outcome, result) for sample, outcome in best],
        commands=_commands(run, data, result.protocol, curves),
        recipe=recipe.strip(),
        environment={key: str(value) for key, value in environment.items()},
        pace=pace_of(metrics),
    )
    path = run / "report.html"
    write_text(path, text)
    write_plots(run / "plots", metrics, curves)
    return path


def rendered(template: str, **values: Any) -> str:
    """A page of `templates/` with its values."""
    import jinja2

    loader = jinja2.FunctionLoader(lambda name: (files("rcnn.report") / "templates" / name).read_text(encoding="utf-8"))
    page = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page.filters.update(figure=_figure, count="{:,}".format)
    return page.get_template(template).render(**values)


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How training went: each chart's title, SVG and legend, those without data left out."""
    steps, total = column(metrics, "loss")
    window = max(len(total) // 40, 1)
    validation = column(metrics, "val_loss")
    losses = [Series("each step", steps, total, "faint")] if window > 1 else []
    losses.append(Series("training", steps, smoothed(total, window), "accent"))
    if len(validation[0]):
        losses.append(Series("validation", *validation, "ink"))
    smooth = np.concatenate((smoothed(total, window), validation[1]))
    limit = (0.0, float(smooth.max()) * 1.1 or 1.0) if len(smooth) else None
    parts = []
    for style, name in zip(("accent", "ink", "dashed", "quiet"), loss_parts(metrics), strict=False):
        at, values = column(metrics, name)
        parts.append(Series(name.removeprefix("loss_").replace("_", " "), at, smoothed(values, window), style))
    precision = [Series("AP50", *column(metrics, "AP50"), "ink"), Series("AP", *column(metrics, "mAP"), "accent")]
    charts = [
        ("Loss", losses, limit),
        ("Average precision on validation images", precision, (0.0, 1.0)),
        ("Mean IoU on validation images", [Series("mean IoU", *column(metrics, "mIoU"), "accent")], (0.0, 1.0)),
        ("Parts of the loss", parts, None),
        ("Learning rate", [Series("learning rate", *column(metrics, "lr"), "accent")], None),
    ]
    rows = []
    for title, series, limits in charts:
        svg = line_chart(series, title=title, x_label="step", y_limits=limits)
        if svg:
            named = [s for s in series if len(s.x)]
            rows.append({"title": title, "svg": svg, "legend": named if len(named) > 1 else []})
    return rows


def _precision_recall_chart(curves: Curves) -> str:
    """Precision over recall, a quiet line for each class and the mean on top."""
    lines = [
        Series(f"{name}, AP {curve.ap:.3f}", RECALL_LEVELS, curve.at_levels(), "quiet")
        for name, curve in curves.per_class.items()
    ]
    if lines:
        lines.append(Series("mean of the classes", RECALL_LEVELS, curves.mean, "accent"))
    return line_chart(lines, title="Precision over recall", x_label="recall", y_limits=(0.0, 1.0))


def matrix_of(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Of a confusion matrix [K + 1, K + 1]: names, rows of (count, share of the row), how many names are hidden."""
    counts, names = confusion, [*classes]
    if len(names) > MATRIX_CLASSES:
        errors = counts.sum(0)[:-1] + counts.sum(1)[:-1] - 2 * counts.diagonal()[:-1]
        kept = np.sort(np.argsort(-errors, kind="stable")[:MATRIX_CLASSES])
        names = [names[i] for i in kept]
        rows = np.append(kept, len(classes))
        counts = counts[np.ix_(rows, rows)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = [
        [(int(n), float(s)) for n, s in zip(numbers, shares, strict=True)]
        for numbers, shares in zip(counts, share, strict=True)
    ]
    return {"names": names, "rows": cells, "hidden": len(classes) - len(names)}


def _choose(
    samples: Sequence[Sample], curves: Curves
) -> tuple[list[tuple[Sample, Outcome]], list[tuple[Sample, Outcome]]]:
    """The worst and the best samples with what became of them; the highest loss, where known, is the worst."""
    judged = [(s, judge(s.truth, s.prediction, threshold=curves.threshold, score=curves.score)) for s in samples]
    judged.sort(key=lambda row: (row[1].quality, row[1].correct - row[1].wrong))
    flawed = [row for row in judged if row[1].wrong]
    if all(sample.loss is not None for sample, _ in flawed):
        flawed.sort(key=lambda row: -(row[0].loss or 0.0))
    worst = flawed[:PICTURES]
    shown = {id(sample) for sample, _ in worst}
    best = [row for row in reversed(judged) if id(row[0]) not in shown and row[1].correct][:PICTURES]
    return worst, best


def _picture(sample: Sample, outcome: Outcome, result: Result) -> dict[str, str]:
    """A sample drawn, as a data URL, with its name and what happened in words."""
    names = list(result.per_class)
    marks = [
        Mark(sample.truth.boxes[index], names[sample.truth.labels[index]], COLOURS["missed"], dashed=True)
        for index in outcome.missed
    ]
    for shown, kind in zip(outcome.shown, outcome.kinds, strict=True):
        said = f"{names[sample.prediction.labels[shown]]}  {sample.prediction.scores[shown]:.2f}"
        segment = sample.prediction.masks[shown] if sample.prediction.masks is not None else None
        marks.append(Mark(sample.prediction.boxes[shown], said, COLOURS[kind], segment=segment))
    picture = draw_marks(sample.image, marks, scale=PICTURE_SIDE / max(sample.image.shape[:2]))
    return {"name": sample.name, "url": data_url(picture), "words": describe(sample, outcome, names)}


def describe(sample: Sample, outcome: Outcome, names: Sequence[str]) -> str:
    """What happened in an image, in words: `3 of 6 found; missed: dog ×2; wrong class: cat taken for dog (0.93)`."""
    truth, prediction = sample.truth, sample.prediction
    asked = int((~truth.ignore).sum())
    phrases = [f"{outcome.correct} of {asked} found" if asked else "nothing to find"]
    if len(outcome.missed):
        missed = Counter(names[truth.labels[i]] for i in outcome.missed)
        phrases.append("missed: " + _listed([f"{name} ×{n}" if n > 1 else name for name, n in missed.items()]))
    said: dict[str, list[str]] = {}
    for shown, kind, index in zip(outcome.shown, outcome.kinds, outcome.objects, strict=True):
        name, score = names[prediction.labels[shown]], f"({prediction.scores[shown]:.2f})"
        if kind == WRONG_CLASS and index >= 0:
            said.setdefault("wrong class", []).append(f"{names[truth.labels[index]]} taken for {name} {score}")
        elif kind not in (CORRECT, IGNORED):
            said.setdefault(kind, []).append(f"{name} {score}")
    phrases += [f"{kind}: {_listed(rows)}" for kind, rows in said.items()]
    if sample.loss is not None:
        phrases.append(f"loss {sample.loss:.2f}")
    return "; ".join(phrases)


def _figure(value: float | None) -> str:
    """A fraction to three digits, a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _listed(words: Sequence[str], most: int = 4) -> str:
    """Words with commas, the rest counted."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def data_url(picture: Image.Image) -> str:
    """The picture as a JPEG inside a URL."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _commands(run: Path, data: str, protocol: str, curves: Curves) -> list[tuple[str, str]]:
    """How to use the model: what for, and the command."""
    model = shlex.quote(str(run))
    score = f" --score {curves.best_score[0]:.2f}" if curves.best_score[1] else ""
    return [
        ("Find objects in your own pictures", f"rcnn predict {model} PICTURES --out found{score}"),
        ("Evaluate it again", f"rcnn eval {model} --data {shlex.quote(data)} --protocol {protocol}"),
        ("Use it from Python", f'rcnn.load({str(run)!r}).predict(["photo.jpg"])[0].save("found.jpg")'),
    ]


def pace_of(metrics: Sequence[Mapping[str, Any]]) -> str:
    """How fast training went, empty where it is not known."""
    _, rates = column(metrics, "images_per_second")
    return f"{np.median(rates):.1f} images a second" if len(rates) else ""
