"""The report's curves as PNG files, for slides and papers: losses, precision over recall, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.evaluation.curves import RECALL_LEVELS, Curves
from rcnn.files import writing
from rcnn.report.charts import smoothed
from rcnn.report.history import column, loss_parts


def write_plots(folder: Path, metrics: Sequence[Mapping[str, Any]], curves: Curves) -> list[Path]:
    """Writes `losses.png`, `pr.png` and `confusion.png` into the folder; gives their paths.

    Drawn without a display, and without touching matplotlib's global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for name, draw in (("losses", _losses), ("pr", _precision_recall), ("confusion", _confusion)):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot(), metrics, curves)
        with writing(folder / f"{name}.png") as beside:
            figure.savefig(beside, dpi=150)
        paths.append(folder / f"{name}.png")
    return paths


def _losses(axes: Any, metrics: Sequence[Mapping[str, Any]], curves: Curves) -> None:
    """Training and validation loss over steps, smoothed."""
    for name in ("loss", *loss_parts(metrics), "val_loss"):
        steps, values = column(metrics, name)
        if len(steps):
            smooth = smoothed(values, len(values) // 40)
            axes.plot(steps, smooth, label=_plain(name), linewidth=2 if name in ("loss", "val_loss") else 1)
    axes.set(xlabel="step", ylabel="loss")
    if axes.lines:
        axes.legend(frameon=False)


def _precision_recall(axes: Any, metrics: Sequence[Mapping[str, Any]], curves: Curves) -> None:
    """Precision over recall of each class and the mean."""
    for name, curve in curves.per_class.items():
        axes.plot(RECALL_LEVELS, curve.at_levels(), linewidth=1, label=f"{_plain(name)} {curve.ap:.3f}")
    axes.plot(RECALL_LEVELS, curves.mean, color="black", linewidth=2.5, label="mean")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"IoU ≥ {curves.threshold}")
    if len(curves.per_class) <= 20:
        axes.legend(frameon=False, fontsize="small")


def _confusion(axes: Any, metrics: Sequence[Mapping[str, Any]], curves: Curves) -> None:
    """The confusion matrix, each row as shares of what is there."""
    counts = curves.confusion
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_plain(name) for name in (*curves.classes, "background")]
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 24:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            if count and len(names) <= 12:
                ink = "white" if share[row, column] > 0.6 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize="small", color=ink)


def _plain(name: str) -> str:
    """A name that matplotlib draws as it stands: no mathematics, no hidden legend entry."""
    return name.replace("$", r"\$").lstrip("_") or " "
