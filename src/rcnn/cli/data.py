"""`rcnn data`: what a data set holds, what is wrong with it, and the same in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn import cli

if TYPE_CHECKING:
    from rcnn.data import Dataset

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What a data set holds, what is wrong with it, and the same in another format.",
)

Data = Annotated[
    str,
    typer.Argument(help="digits, a VOC root, a COCO folder or JSON, a YOLO data.yaml, or label maps.", metavar="DATA"),
]
Split = Annotated[str | None, typer.Option(help="train, val, test, …; all images if left out.", metavar="S")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON (- for standard output).")]

_SAMPLES = 12


@app.command()
def info(
    data: Data,
    split: Split = None,
    json: Json = None,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures of sample images.", metavar="DIR")] = None,
) -> None:
    """Counts, sizes, class balance, and advice.

    The advice is about image size, backbone, classes and what else makes training or judging hard.
    """
    from rcnn.data import open_dataset
    from rcnn.data.info import summarise

    dataset = open_dataset(data, split)
    summary = summarise(dataset)
    if json is not None:
        cli.write_json(json, summary)
    if str(json) != "-":
        _print_summary(summary)
    if out is not None:
        _draw_samples(dataset, out)


@app.command()
def check(data: Data, split: Split = None, json: Json = None) -> None:
    """Every problem, with file, value and fix.

    Reads all images as well as annotations. The exit code is 1 if there is any problem.
    """
    from rcnn.data.checks import check as run_check

    findings = run_check(data, split, lambda total: cli.progress("reading images", total))
    if json is not None:
        problems = [problem.to_dict() for problem in findings.problems]
        figures = {"images": findings.images, "objects": findings.objects}
        cli.write_json(json, {"data": data, "split": split or "all", **figures, "problems": problems})
    if str(json) != "-":
        for problem in findings.problems:
            cli.console().print(str(problem))
        count = len(findings.problems)
        found = f"{count} problem{'s' * (count != 1)}" if count else "no problems"
        cli.console().print(f"{findings.images} images, {findings.objects} objects: {found}")
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def convert(
    data: Data,
    to: Annotated[str, typer.Option(help="voc, coco, yolo or masks.", metavar="FORMAT")],
    out: Annotated[Path, typer.Option(help="New folder to write.", metavar="DIR")],
) -> None:
    """The same in another format, without loss.

    Images are copied unchanged. The result is written beside its place and renamed once it is whole.
    """
    from rcnn.data.convert import convert as run_convert

    result = run_convert(data, to, out, lambda total: cli.progress("copying images", total))
    for note in result.notes:
        cli.say(f"note: {note}")
    parts = ", ".join(f"{split} {count}" for split, count in result.splits.items())
    cli.console().print(f"{result.images} images ({parts}) with {result.objects} objects are in {out}")


def _print_summary(summary: dict[str, Any]) -> None:
    """Prints figures for a person."""
    console = cli.console()
    splits = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
    console.print(f"{summary['data']}: {summary['format']}, split {summary['split']} (images by split: {splits})")
    if summary["note"]:
        console.print(summary["note"])
    empty = summary["images_without_objects"]
    flags = ", ".join(f"{summary[key]} {word}" for key, word in _FLAGS.items() if summary[key])
    console.print(
        f"{summary['images']} images ({empty} without objects), {summary['objects']} objects"
        + (f" ({flags})" if flags else "")
    )
    sizes = summary["image_size"]
    told = ", ".join(f"{name} {sizes[name][0]}×{sizes[name][1]}" for name in ("smallest", "median", "largest"))
    console.print(f"image sizes: {told}; {sizes['distinct']} different")
    _print_quantiles(summary["object_size"], summary["objects_per_image"])
    _print_classes(summary["classes"])
    if "label_maps" in summary:
        _print_label_maps(summary["label_maps"])
    for advice in summary["advice"]:
        console.print(f"• {advice}")


_FLAGS = {"difficult": "difficult", "crowd": "crowd", "masks": "with masks"}


def _print_quantiles(object_size: dict[str, float], per_image: dict[str, float]) -> None:
    """Prints quantiles of object sizes and of counts an image."""
    from rich.table import Table

    table = Table("", *per_image, box=None, pad_edge=False)
    if object_size:
        table.add_row("object size (px)", *(f"{value:g}" for value in object_size.values()))
    table.add_row("objects an image", *(f"{value:g}" for value in per_image.values()))
    cli.console().print(table)


def _print_classes(classes: dict[str, dict[str, int]]) -> None:
    """Prints the class balance, most frequent first, with bars."""
    from rich.table import Table

    table = Table("class", "objects", "images", "", box=None, pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    most = max((row["objects"] for row in classes.values()), default=0) or 1
    for name, row in sorted(classes.items(), key=lambda item: -item[1]["objects"]):
        bar = "█" * max(round(24 * row["objects"] / most), bool(row["objects"]))
        table.add_row(name, str(row["objects"]), str(row["images"]), bar)
    cli.console().print(table)


def _print_label_maps(maps: dict[str, Any]) -> None:
    """Prints how many images have a label map, and each class's share of their pixels."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in maps["share"].items() if share)
    cli.console().print(f"label maps: {maps['images']} images; pixels: {shares}")


def _draw_samples(dataset: Dataset, out: Path) -> None:
    """Writes pictures of images spread over the data set, their objects drawn in."""
    from rcnn.data import draw_boxes
    from rcnn.files import writing

    count = min(_SAMPLES, len(dataset))
    for k in range(count):
        i = k * len(dataset) // count
        truth = dataset.truth(i)
        picture = draw_boxes(dataset.image(i), truth.boxes, truth.labels, None, dataset.classes)
        stem = Path(dataset.name(i)).stem
        with writing(out / f"{k + 1:02}_{stem}.jpg") as beside:
            picture.convert("RGB").save(beside, quality=90)
    cli.console().print(f"{count} pictures are in {out}")
