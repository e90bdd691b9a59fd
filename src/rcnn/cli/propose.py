"""`rcnn propose`: regions of images or of a data set, kept on disk, written, drawn and judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn import cli
from rcnn.cli.image_files import image_files, keep_originals, picture_names
from rcnn.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rcnn.data import Dataset
    from rcnn.evaluation import ProposalResult
    from rcnn.proposals import RegionMethod


def command(
    images: Annotated[list[Path] | None, typer.Argument(help="Images, or folders of images.")] = None,
    data: Annotated[str, typer.Option(help="digits, or the place of a VOC, COCO or YOLO data set.")] = "",
    split: Annotated[str, typer.Option(help="Split of the data set: train, val, test, …; without it, all.")] = "",
    method: Annotated[
        str, typer.Option(help="selective-search, or the folder of a model with an RPN.")
    ] = "selective-search",
    mode: Annotated[str, typer.Option(help="Of Selective Search: fast, quality or single.")] = "fast",
    count: Annotated[int | None, typer.Option(min=1, help="The most regions of an image; without it, all.")] = None,
    min_side: Annotated[
        float, typer.Option(min=0, help="Of Selective Search: the shortest side kept, in pixels.")
    ] = 20.0,
    overlap: Annotated[
        float, typer.Option(help="Of Selective Search: IoU with a better region above which one is dropped.")
    ] = 0.875,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of Selective Search: resize images to this width first.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random part of Selective Search's ranking.")] = 0,
    json: Annotated[str, typer.Option(help="Write regions (with --eval: figures) to this file; - for output.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for pictures; of a data set, for regions.npz.")] = None,
    judge: Annotated[bool, typer.Option("--eval", help="Print and plot how well the objects are covered.")] = False,
    device: Annotated[str, typer.Option(help="Of a model: auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Proposes regions that may hold objects, best first. Those of a data set are kept for training and found once."""
    from rcnn.detectors.proposing import region_method

    if bool(images) == bool(data):
        raise UserError("give either images or --data DATA, such as: rcnn propose photo.jpg")
    if not data and (judge or split):
        raise UserError(f"--{'eval' if judge else 'split'} needs a data set: add --data DATA")
    cli.require_targets(json)
    settings = {"mode": mode, "min_side": min_side, "overlap": overlap, "width": width, "seed": seed}
    finder = region_method(method, count=count, device=device, **settings)
    if not data:
        _for_images([Path(image) for image in images or ()], finder, json, out)
        return
    dataset, boxes = _for_dataset(data, split, finder)
    if judge:
        title = f"{method} {mode}" if method == "selective-search" else method
        _judge(dataset, boxes, title, json, out or Path("proposals"))
    elif json:
        cli.write_json(json, [_entry(dataset, index, found) for index, found in enumerate(boxes)])
    if out is not None:
        from rcnn.proposals import write_regions

        write_regions(out / "regions.npz", [dataset.name(index) for index in range(len(dataset))], boxes)
        cli.say(f"regions of {len(dataset)} images in {out / 'regions.npz'}")


def _for_images(given: list[Path], method: RegionMethod, json: str, out: Path | None) -> None:
    """Regions of image files: drawn into `out`, written to `json`."""
    from rcnn.data import read_image
    from rcnn.files import writing
    from rcnn.proposals import FoundRegions

    files = image_files(given)
    if out is None and not json:
        out = Path("proposals")
    pictures = picture_names(files)
    if out is not None:
        keep_originals(files, [out / name for name in pictures])
    entries = []
    with cli.progress("proposing", len(files)) as done:
        for index, file in enumerate(files):
            pixels = read_image(file)
            found = FoundRegions(method(pixels), str(file), pixels)
            entries.append(found.to_dict())
            if out is not None:
                with writing(out / pictures[index]) as beside:
                    found.picture().save(beside, quality=92)
            done(index + 1)
    if json:
        cli.write_json(json, entries)
    for entry in entries if json != "-" else ():
        cli.console().print(f"{entry['image']}: {len(entry['boxes'])} regions")
    if out is not None:
        cli.say(f"{len(files)} pictures of the best regions in {out}")


def _for_dataset(data: str, split: str, method: RegionMethod) -> tuple[Dataset, list[np.ndarray]]:
    """The data set and each image's regions [N, 4], those that were kept by an earlier call among them."""
    from rcnn.data import open_dataset
    from rcnn.proposals import CachedRegions, fill

    dataset = open_dataset(data, split or None)
    if dataset.note:
        cli.say(dataset.note)
    regions = CachedRegions(method)
    try:
        with cli.progress("proposing", len(dataset)) as done:
            fill(regions, dataset, done=done)
    except KeyboardInterrupt:
        cli.say("stopped; what was found is kept, and the same command goes on from there")
        raise
    cli.say(f"regions are kept in {regions.folder}")
    return dataset, [regions(dataset, index) for index in range(len(dataset))]


def _entry(dataset: Dataset, index: int, boxes: np.ndarray) -> dict[str, Any]:
    """One image's regions [N, 4] as JSON says them."""
    height, width = dataset.size(index)
    rounded = [[round(side, 2) for side in box] for box in boxes.tolist()]
    return {"image": dataset.name(index), "width": width, "height": height, "boxes": rounded}


def _judge(dataset: Dataset, boxes: list[np.ndarray], title: str, json: str, out: Path) -> None:
    """Prints recall and MABO by number of regions, plots them, and writes them to `json`."""
    from rcnn.evaluation import proposal_recall
    from rcnn.report.recall_plot import write_recall_plot

    largest = max((len(found) for found in boxes), default=0)
    steps = (10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10000, 20000)
    counts = [*(step for step in steps if step < largest), largest]
    truths = [dataset.truth(index) for index in range(len(dataset))]
    result = proposal_recall(truths, boxes, counts)
    objects = sum(int((~truth.ignore).sum()) for truth in truths)
    where = f"{dataset.data} {dataset.split}".strip()
    if json != "-":
        cli.console().print(f"{title} on {where}: {len(dataset)} images, {objects} objects")
        cli.console().print(_table(result))
    if json:
        cli.write_json(
            json,
            {"method": title, "split": dataset.split, "images": len(dataset), "objects": objects, **result.to_dict()},
        )
    write_recall_plot(result, f"{title}, {where}", out / "recall.png")
    cli.say(f"plotted in {out / 'recall.png'}")


def _table(result: ProposalResult) -> Any:
    """The figures as a table of one row a count."""
    from rich.table import Table

    table = Table()
    for heading in ("at most", "on average", *(f"recall @{threshold:g}" for threshold in result.thresholds), "MABO"):
        table.add_column(heading, justify="right")
    for row in zip(result.counts, result.average, result.recall, result.mabo, strict=True):
        most, average, recall, mabo = row
        table.add_row(str(most), f"{average:.0f}", *(f"{value:.3f}" for value in recall), f"{mabo:.3f}")
    return table
