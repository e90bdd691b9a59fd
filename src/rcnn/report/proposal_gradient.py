"""Why non-approximate joint training needs RoI warping, as a picture: a loss as one side of a proposal moves, and the
slope that the backward pass reports, for each way of pooling (Ren et al. 2017, section 3.2, item iii).

Letters: C channels, P pooled side, T places of the moving side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.files import writing
from rcnn.pooling import RoIAlign, RoIPool, RoIWarp

STRIDE, SIZE, CHANNELS, CLASSES = 16, 7, 32, 5
BOX = (96.0, 64.0, 256.0, 192.0)
REACH = 24.0


@dataclass(frozen=True)
class Sweep:
    """The loss [T] while a proposal's left side is `moved` [T] pixels from its place, and its reported `slopes` [T]."""

    name: str
    moved: Tensor
    losses: Tensor
    slopes: Tensor


def sweeps(places: int = 481) -> list[Sweep]:
    """The loss of one proposal on a random smooth map, pooled in each of the three ways and classified by one layer.

    Args:
        places: T.
    """
    generator = torch.Generator().manual_seed(4)
    coarse = torch.randn(1, CHANNELS, 8, 12, generator=generator, dtype=torch.float64)
    feature = F.interpolate(coarse, scale_factor=2, mode="bicubic")  # of an image of 256 × 384 pixels
    layer = torch.randn(CLASSES, CHANNELS * SIZE * SIZE, generator=generator, dtype=torch.float64) / SIZE**2
    pools = {
        "RoI max pooling": RoIPool(SIZE, [STRIDE]),
        "RoIAlign": RoIAlign(SIZE, [STRIDE]),
        "RoI warping": RoIWarp(SIZE, [STRIDE]),
    }
    return [_sweep(name, pool, feature, layer, places) for name, pool in pools.items()]


def _sweep(name: str, pool: nn.Module, feature: Tensor, layer: Tensor, places: int) -> Sweep:
    """One way of pooling; its slope is 0 where the backward pass gives the box none."""
    moved = torch.linspace(-REACH, REACH, places, dtype=torch.float64)
    boxes = torch.tensor(BOX, dtype=torch.float64).repeat(places, 1)
    boxes[:, 0] += moved
    boxes.requires_grad_()
    pooled = pool([feature.requires_grad_()], boxes[None], torch.ones(1, places, dtype=torch.bool))[0]
    logits = pooled.flatten(1) @ layer.T  # [T, classes]
    losses = F.cross_entropy(logits, torch.zeros(places, dtype=torch.int64), reduction="none")
    grad = torch.autograd.grad(losses.sum(), boxes, allow_unused=True)[0]
    slopes = torch.zeros(places, dtype=torch.float64) if grad is None else grad[:, 0]
    return Sweep(name, moved, losses.detach(), slopes)


def write_proposal_gradient(path: str | Path) -> Path:
    """Draws the sweeps side by side into a picture file; gives its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = sweeps()
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, sweep in zip(figure.subplots(1, len(found), sharey=True), found, strict=True):
        axes.plot(sweep.moved, sweep.losses, linewidth=1.2)
        for place in range(40, len(sweep.moved), 80):
            x, y, slope = (float(values[place]) for values in (sweep.moved, sweep.losses, sweep.slopes))
            axes.plot([x - 3, x + 3], [y - 3 * slope, y + 3 * slope], color="tab:red", linewidth=2)
        axes.set(title=sweep.name, xlabel="left side moved by, pixels")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("detection loss")
    with writing(path) as beside:
        figure.savefig(beside, dpi=110)
    return Path(path)
