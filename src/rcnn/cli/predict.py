"""`rcnn predict`: detects objects in images; draws them, and writes them as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli
from rcnn.errors import UserError

DRAWN = 0.5


def command(
    model: Annotated[Path, typer.Argument(help="Run or model folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder for pictures with the detections drawn.")] = None,
    json: Annotated[str, typer.Option(help="Write all detections to this file; - for standard output.")] = "",
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw and write detections of at least this score.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images run at once.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """Detects objects in images. Draws those of score 0.5 and more, writes those of the model's own score (0.05)."""
    from rcnn import detectors

    files = _files(images)
    detector = detectors.load(model, device=device, precision=precision)
    drawn = DRAWN if score is None else score
    if out is None and not json:
        out = Path("predictions")
    pictures = _names(files)
    if out is not None:
        _keep_originals(files, [out / name for name in pictures])
    entries: list[dict] = [{}] * len(files)
    with cli.progress("predicting", len(files)) as done:
        for count, (index, found) in enumerate(detector.stream(files, score=score, batch_size=batch_size), 1):
            entries[index] = found.to_dict()
            if out is not None:
                found.above(drawn).save(out / pictures[index])
            done(count)
    if json:
        cli.write_json(json, entries)
    if out is not None:
        cli.say(f"{len(files)} pictures in {out}")


def _files(given: list[Path]) -> list[Path]:
    """The images themselves, folders opened."""
    from rcnn.data.folders import images_below

    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = images_below(str(path))
            if not inside:
                raise UserError(f"folder '{path}' holds no images")
            files += [path / name for name in inside]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"image '{path}' does not exist")
    return files


def _keep_originals(files: list[Path], pictures: list[Path]) -> None:
    """Refuses to draw a picture over an image that was given."""
    originals = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in originals:
            raise UserError(f"the picture '{picture}' would overwrite an image; choose another folder with --out")


def _names(files: list[Path]) -> list[str]:
    """A picture's name for each image: its own, numbered where two are alike; formats we do not write become PNG."""
    from rcnn.detectors.detections import PICTURES

    taken: set[str] = set()
    names = []
    for file in files:
        suffix = file.suffix.lower() if file.suffix.lower() in PICTURES else ".png"
        name, number = f"{file.stem}{suffix}", 2
        while name in taken:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        taken.add(name)
        names.append(name)
    return names
