"""`rcnn eval`: judges a model on a data set and says by which protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn import cli

if TYPE_CHECKING:
    from rcnn.evaluation import Result, SegmentationResult


def command(
    model: Annotated[
        Path,
        typer.Argument(help="Run or model folder; or results: a COCO JSON, a folder of VOC's.", show_default=False),
    ],
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

    An FCN is judged by pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU. In place of a model there
    may be what any program found: COCO results (a JSON list) or a folder of VOC's comp4_det_SPLIT_CLASS.txt.
    """
    from rcnn import inference
    from rcnn.evaluation import evaluate_model, open_for
    from rcnn.interop.results import are_results

    cli.require_targets(json)
    if are_results(model):
        return _judge_results(model, data, split, classes, protocol or "coco", json)
    detector = inference.load(model, device=device, precision=precision)
    dataset = open_for(detector, data, split, cli.class_names(classes))
    if dataset.note:
        cli.say(dataset.note)
    with cli.progress("evaluating", len(dataset)) as done:
        result = evaluate_model(detector, dataset, protocol=protocol or None, batch_size=batch_size, done=done)
    _tell(result, dataset.split, json)


def _judge_results(results: Path, data: str, split: str, classes: str, protocol: str, json: str) -> None:
    """Judges what some program found in the images of a data set."""
    from rcnn.data import open_dataset
    from rcnn.evaluation import evaluate
    from rcnn.evaluation.protocols import check_protocol
    from rcnn.interop.results import read_results

    check_protocol(protocol)
    dataset = open_dataset(data, split, classes=cli.class_names(classes))
    if dataset.note:
        cli.say(dataset.note)
    found = read_results(results, dataset)
    truths = [dataset.truth(i) for i in range(len(dataset))]
    _tell(evaluate(truths, found, dataset.classes, sizes=dataset.sizes, protocol=protocol), dataset.split, json)


def _tell(result: Result | SegmentationResult, split: str, json: str) -> None:
    """Prints the figures, and writes them where JSON is wanted."""
    if json != "-":
        cli.console().print(result.summary())
    if json:
        cli.write_json(json, {**result.to_dict(), "split": split})
