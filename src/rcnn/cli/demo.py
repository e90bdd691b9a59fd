"""`rcnn demo`: a detector trained, evaluated and reported on in front of you, from nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rcnn import cli

SYSTEM = "faster-rcnn/resnet18-fpn"

# Small enough to learn in minutes on two cores. Digits are 20 to 100 px, so the pyramid ends at stride 16 and its
# anchors are small; batch norm learns fastest where a batch holds enough images.
SETTINGS: dict[str, Any] = {
    "model.image_size": [240, 320],
    "model.backbone.norm": "batch",
    "model.backbone.levels": [4, 8, 16],
    "model.backbone.channels": 64,
    "model.anchors.sizes": [[24.0], [48.0], [88.0]],
    "model.rpn.pre_nms": [500, 300],
    "model.rpn.post_nms": [500, 300],
    "model.box.hidden": [256, 256],
    "model.box.samples": 128,
    "train.lr": 0.02,
    "train.lr_batch": 8,
    "augment.flip": 0.0,  # a mirrored digit is another sign
}


def command(
    out: Annotated[Path, typer.Option(help="Run folder; another demo there is kept, and the new one numbered.")] = Path(
        "demo"
    ),
) -> None:
    """Trains a Faster R-CNN on embedded handwriting from a random start, evaluates it, and writes report.html."""
    import torch

    from rcnn.api import train

    # Where the processor has bf16 arithmetic, training takes half the time.
    fast = torch.backends.cpu.is_available() and torch.cpu._is_avx512_bf16_supported()
    result = train(
        SYSTEM,
        "digits",
        out=_free(out),
        epochs=7,
        batch_size=8,
        workers=1,
        precision="bf16" if fast else "auto",
        settings=SETTINGS,
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
