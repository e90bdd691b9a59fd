"""The report's curves as PNG files, for slides and papers: losses, precision over recall, confusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.evaluation.curves import RECALL_LEVELS, Curves
from rcnn.evaluation.segmentation import SegmentationResult
from rcnn.files import writing
from rcnn.report.charts import smoothed
from rcnn.report.history import column, loss_parts

Draw = Callable[[Any], None]


def write_plots(folder: Path, metrics: Sequence[Mapping[str, Any]], curves: Curves) -> list[Path]:
    """Writes `losses.png`, `pr.png` and `confusion.png` into the folder; gives their paths."""
    drawn: dict[str, Draw] = {
        "losses": partial(_losses, metrics=metrics),
        "pr": partial(_precision_recall, curves=curves),
        "confusion": partial(_confusion, counts=curves.confusion, classes=(*curves.classes, "background")),
    }
    return _write(folder, drawn)


def write_segmentation_plots(
    folder: Path, metrics: Sequence[Mapping[str, Any]], result: SegmentationResult
) -> list[Path]:
    """Writes `losses.png` and `confusion.png`, of pixels, into the folder; gives their paths."""
    drawn: dict[str, Draw] = {
        "losses": partial(_losses, metrics=metrics),
        "confusion": partial(_confusion, counts=result.confusion, classes=result.classes, shares=True),
    }
    return _write(folder, drawn)


def _write(folder: Path, drawn: Mapping[str, Draw]) -> list[Path]:
    """Each plot as a PNG of its name, drawn without a display and without touching matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for name, draw in drawn.items():
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        with writing(folder / f"{name}.png") as beside:
            figure.savefig(beside, dpi=150)
        paths.append(folder / f"{name}.png")
    return paths


def _losses(axes: Any, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Training and validation loss over steps, smoothed."""
    for name in ("loss", *loss_parts(metrics), "val_loss"):
        steps, values = column(metrics, name)
        if len(steps):
            smooth = smoothed(values, len(values) // 40)
            axes.plot(steps, smooth, label=_plain(name), linewidth=2 if name in ("loss", "val_loss") else 1)
    axes.set(xlabel="step", ylabel="loss")
    if axes.lines:
        axes.legend(frameon=False)


def _precision_recall(axes: Any, curves: Curves) -> None:
    """Precision over recall of each class and the mean."""
    for name, curve in curves.per_class.items():
        axes.plot(RECALL_LEVELS, curve.at_levels(), linewidth=1, label=f"{_plain(name)} {curve.ap:.3f}")
    axes.plot(RECALL_LEVELS, curves.mean, color="black", linewidth=2.5, label="mean")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"IoU ≥ {curves.threshold}")
    if len(curves.per_class) <= 20:
        axes.legend(frameon=False, fontsize="small")


def _confusion(axes: Any, counts: np.ndarray, classes: Sequence[str], *, shares: bool = False) -> None:
    """The confusion matrix [C, C], each row coloured by shares of what is there; cells say counts, or `shares`."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_plain(name) for name in classes]
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 24:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            if count and len(names) <= 12:
                ink = "white" if share[row, column] > 0.6 else "black"
                said = f"{share[row, column]:.0%}" if shares else str(count)
                axes.text(column, row, said, ha="center", va="center", fontsize="small", color=ink)


def _plain(name: str) -> str:
    """A name that matplotlib draws as it stands: no mathematics, no hidden legend entry."""
    return name.replace("$", r"\$").lstrip("_") or " "
