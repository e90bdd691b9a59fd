"""`rcnn eval`: judges a model on a data set and says by which protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli


def command(
    model: Annotated[Path, typer.Argument(help="Run or model folder.", show_default=False)],
    data: Annotated[str, typer.Option(help="digits, or the place of a VOC, COCO or YOLO data set.")],
    split: Annotated[str, typer.Option(help="Split to judge on: train, val, test, …")] = "val",
    classes: Annotated[str, typer.Option(help="Judge these classes only: A,B,…; without it, all.")] = "",
    protocol: Annotated[str, typer.Option(help="coco, voc07, voc12, or segmentation for an FCN.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Images run at once.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    json: Annotated[str, typer.Option(help="Write the figures to this file; - for standard output.")] = "",
) -> None:
    """Judges a model on a data set: AP by COCO's protocol, or by VOC's of 2007 or 2010 and later.

    An FCN is judged by pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU.
    """
    from rcnn import inference
    from rcnn.evaluation import evaluate_model, open_for

    detector = inference.load(model, device=device, precision=precision)
    wanted = [name.strip() for name in classes.split(",") if name.strip()] or None
    dataset = open_for(detector, data, split, wanted)
    if dataset.note:
        cli.say(dataset.note)
    with cli.progress("evaluating", len(dataset)) as done:
        result = evaluate_model(detector, dataset, protocol=protocol or None, batch_size=batch_size, done=done)
    if json != "-":
        cli.console().print(result.summary())
    if json:
        cli.write_json(json, {**result.to_dict(), "split": dataset.split})
