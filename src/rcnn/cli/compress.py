"""`rcnn compress`: makes a model's fully connected layers smaller and faster, and says what that costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rcnn import cli
from rcnn.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.data import Dataset
    from rcnn.detectors import Model
    from rcnn.heads import BoxHead

# The head is timed on so many regions, so many times; whole images, so many of them spread over the data.
REGIONS, ROUNDS = 2000, 5
IMAGES = 10


def command(
    model: Annotated[Path, typer.Argument(help="Run or model folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New model folder.", show_default=False)],
    fc6: Annotated[int, typer.Option(min=0, help="Rank of the first fully connected layer; 0 leaves it.")] = 0,
    fc7: Annotated[int, typer.Option(min=0, help="Rank of the second fully connected layer; 0 leaves it.")] = 0,
    energy: Annotated[
        float | None, typer.Option(help="Share of the squared singular values to keep, 0 to 1, in place of ranks.")
    ] = None,
    data: Annotated[str, typer.Option(help="Judge both models on this data set.")] = "",
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "val",
    protocol: Annotated[str, typer.Option(help="coco, voc07 or voc12.")] = "coco",
    batch_size: Annotated[int, typer.Option(min=1, help="Images run at once.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    json: Annotated[str, typer.Option(help="Write the figures to this file; - for standard output.")] = "",
) -> None:
    """Truncated SVD of the box head's fully connected layers: --fc6 1024 --fc7 256, or --energy 0.9.

    Prints parameters and the head's seconds on 2,000 regions before and after; with --data, AP and seconds an image.
    """
    from rcnn import detectors
    from rcnn.evaluation import open_for
    from rcnn.evaluation.protocols import check_protocol

    cli.require_targets(json)
    before = detectors.load(model, device=device, precision=precision)
    ranks = (fc6, fc7) if fc7 else (fc6,) if fc6 else ()
    if (energy is None) == (not ranks):
        raise UserError("expected the ranks to keep, --fc6 T and --fc7 T, or in their place --energy X")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out '{out}' exists already; expected a new folder")
    check_protocol(protocol)
    dataset = open_for(before, data, split) if data else None
    cli.say("decomposing the fully connected layers")
    after = detectors.compress(before, ranks, energy=energy)
    if not any(after.options.box.ranks):
        raise UserError(f"--energy {energy} saves nothing: two layers of the ranks that it needs cost more than one")
    figures = _figures(before, after)
    if dataset is not None:
        for name, more in zip(figures, _judged(before, after, dataset, protocol, batch_size), strict=True):
            figures[name] |= more
    detectors.save(after, out, about={"compressed": figures["after"]})
    if json != "-":
        _print(figures, after.options.box.ranks, dataset, protocol)
        cli.console().print(f"the compressed model is in {out}")
    if json:
        judged_on = {"data": data, "split": dataset.split, "protocol": protocol} if dataset is not None else {}
        cli.write_json(json, {"ranks": list(after.options.box.ranks), **judged_on, **figures})


def _figures(before: Model[Any], after: Model[Any]) -> dict[str, dict[str, Any]]:
    """Parameters of model and head and seconds of the head, before and after."""
    from rcnn.detectors.compression import parameters

    pooled = _pooled(before)
    return {
        name: {
            "parameters": parameters(model),
            "head_parameters": parameters(_head(model)),
            "head_seconds": round(median, 5),
        }
        for name, model, median in zip(
            ("before", "after"),
            (before, after),
            _medians([partial(_run_head, model, pooled) for model in (before, after)], ROUNDS),
            strict=True,
        )
    }


def _head(model: Model[Any]) -> BoxHead:
    return cast("BoxHead", model.box_head)


def _pooled(model: Model[Any]) -> Tensor:
    """Random pooled features [1, N, F, 1, 1] of as many regions as the head is timed on."""
    import torch

    from rcnn.heads.low_rank import linear_layers

    first = next(iter(linear_layers(_head(model).trunk).values()))
    return torch.rand(1, REGIONS, first.in_features, 1, 1, device=model.device)


def _run_head(model: Model[Any], pooled: Tensor) -> None:
    """Runs the box head on pooled features [1, N, F, 1, 1] as prediction would."""
    import torch

    from rcnn.detectors import evaluating

    with evaluating(model), torch.inference_mode(), model.autocast():
        _head(model)(pooled).logits.sum().item()  # which waits for the device


def _medians(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each call; they are taken in turn, after one round to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def _judged(
    before: Model[Any], after: Model[Any], dataset: Dataset, protocol: str, batch_size: int
) -> list[dict[str, float]]:
    """AP of both models on a data set, and seconds an image once it and its regions are read."""
    from rcnn.evaluation import evaluate_model
    from rcnn.proposals.regions import CachedRegions

    models = (before, after)
    around = CachedRegions(before.region_method) if before.region_method is not None else None
    figures = []
    for model in models:
        with cli.progress("evaluating", len(dataset)) as done:
            result = evaluate_model(
                model, dataset, protocol=protocol, batch_size=batch_size, done=done, regions=around
            ).to_dict()
        figures.append({"mAP": result["mAP"], "AP50": result["AP50"]})
    seconds = []
    for index in sorted({k * len(dataset) // IMAGES for k in range(IMAGES)}):
        image = [dataset.image(index)]
        regions = None if around is None else [around(dataset, index)]
        seconds.append(_medians([partial(model.predict, image, regions=regions) for model in models], 1))
    for own, taken in zip(figures, zip(*seconds, strict=True), strict=True):
        own["image_seconds"] = round(statistics.median(taken), 5)
    return figures


def _print(figures: dict[str, dict[str, Any]], ranks: tuple[int, ...], dataset: Dataset | None, protocol: str) -> None:
    """Prints the figures side by side."""
    from rich.table import Table

    table = Table("", "before", "after", "", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    before, after = figures["before"], figures["after"]
    for key, (title, form) in _ROWS.items():
        if key in before:
            less = (
                f"{before[key] / after[key]:.2f} times less" if "AP" not in key else f"{after[key] - before[key]:+.4f}"
            )
            table.add_row(title, form.format(before[key]), form.format(after[key]), less)
    cli.console().print(f"ranks of the fully connected layers: {', '.join(str(rank or 'as it was') for rank in ranks)}")
    cli.console().print(table)
    if dataset is not None:
        cli.console().print(f"AP by protocol {protocol}, {len(dataset)} images of split {dataset.split}")


_ROWS = {
    "parameters": ("parameters of the model", "{:,}"),
    "head_parameters": ("parameters of the box head", "{:,}"),
    "head_seconds": (f"seconds of the head on {REGIONS:,} regions", "{:.4f}"),
    "mAP": ("mAP", "{:.4f}"),
    "AP50": ("AP50", "{:.4f}"),
    "image_seconds": ("seconds an image", "{:.4f}"),
}
