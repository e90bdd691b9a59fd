"""How much of the objects a number of proposals covers, as a picture: recall and MABO over the count."""

from __future__ import annotations

from pathlib import Path

from rcnn.evaluation.proposals import ProposalResult
from rcnn.files import writing


def write_recall_plot(result: ProposalResult, title: str, path: str | Path) -> Path:
    """Draws recall at each threshold and MABO over the number of proposals into a picture file; gives its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for threshold, recall in zip(result.thresholds, result.recall.T, strict=True):
        axes.plot(result.counts, recall, marker=".", label=f"recall at IoU ≥ {threshold:g}")
    axes.plot(result.counts, result.mabo, marker=".", color="black", linewidth=2.5, label="MABO")
    axes.set(xscale="log", xlabel="proposals an image", ylim=(0, 1.02))
    axes.set_title(title.replace("$", r"\$"))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with writing(path) as beside:
        figure.savefig(beside, dpi=150)
    return Path(path)
