"""`rcnn demo`: a detector trained, evaluated and reported on in front of you, from nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli

SYSTEM = "faster-rcnn/resnet18-fpn"


def command(
    out: Annotated[Path, typer.Option(help="Run folder; another demo there is kept, and the new one numbered.")] = Path(
        "demo"
    ),
) -> None:
    """Trains a Faster R-CNN on embedded handwriting from a random start, evaluates it, and writes report.html."""
    import torch

    from rcnn.api import train

    # Where the processor has bf16 arithmetic, training takes half the time. torch has no public word for it.
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    result = train(
        SYSTEM,
        "digits",
        out=_free(out),
        workers=1,
        precision="bf16" if fast else "auto",
        quiet=cli.quiet(),
    )
    if result is None:
        return
    metrics = result.metrics
    print(f"AP50 {metrics['AP50']:.3f}, AP {metrics['mAP']:.3f} on digits val after {result.seconds / 60:.1f} minutes")
    print(f"look at {result.run / 'report.html'}; use the model with: rcnn predict {result.run} IMAGE…")


def _free(folder: Path) -> Path:
    """The folder if nothing is in it, else the first numbered one beside it."""
    number, free = 2, folder
    while free.exists() and any(free.iterdir()):
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free
