"""`rcnn demo`: a detector trained, evaluated and reported on in front of you, from nothing but this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rcnn import cli

SYSTEM = "faster-rcnn/resnet18-fpn"
EPOCHS = 14

# Small enough to learn in minutes on two cores. At 192 × 256 nothing is padded; digits are 16 to 80 px there, so the
# pyramid ends at stride 16 and its anchors are small. Batch norm learns fastest where a batch holds enough images, and
# as many regions as half a hundred digits give teach the classes.
SETTINGS: dict[str, Any] = {
    "model.image_size": [192, 256],
    "model.backbone.norm": "batch",
    "model.backbone.levels": [4, 8, 16],
    "model.backbone.channels": 64,
    "model.anchors.sizes": [[20.0], [40.0], [70.0]],
    "model.rpn.pre_nms": [500, 300],
    "model.rpn.post_nms": [500, 300],
    "model.box.hidden": [256, 256],
    "model.box.samples": 64,
    "model.box.positive_fraction": 0.5,
    "train.lr": 0.04,
    "train.lr_batch": 8,
    "train.eval_every": 7.0,
    # Too few passes to need more variety than the data have.
    "augment.scale": [1.0, 1.0],
    "augment.photometric": 0.0,
    "augment.iou_crop": 0.0,
    "augment.zoom_out": 0.0,
}


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
        epochs=EPOCHS,
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
