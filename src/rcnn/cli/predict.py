"""`rcnn predict`: detects objects in images; draws them, and writes them as JSON."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli
from rcnn.cli.image_files import image_files, keep_originals, picture_names
from rcnn.errors import UserError
from rcnn.files import require_place

DRAWN, LABELS = 0.5, "labels"


def command(
    model: Annotated[Path, typer.Argument(help="Run or model folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder for pictures with the detections drawn.")] = None,
    json: Annotated[str, typer.Option(help="Write all detections to this file; - for standard output.")] = "",
    coco: Annotated[str, typer.Option(help="Write all detections as COCO results to this file.")] = "",
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw and write detections of at least this score.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images run at once.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """Detects objects in images. Draws those of score 0.5 and more, writes those of the model's own score (0.05).

    An FCN's pictures have its classes laid over them, and the folder `labels` beside them its label maps.
    """
    from rcnn import detectors, inference
    from rcnn.interop.results import stem_id

    files = image_files(images)
    cli.require_targets(json, coco)
    if out is not None:
        require_place(out, folder=True)
    detector = inference.load(model, device=device, precision=precision)
    if score is not None and isinstance(detector, detectors.Segmenter):
        raise UserError(f"{detector.system} says one class of each pixel and gives no scores; leave --score out")
    drawn = DRAWN if score is None else score
    if coco and isinstance(detector, detectors.Segmenter):
        raise UserError(
            f"{detector.system} says one class of each pixel, and COCO results are of objects; leave --coco out"
        )
    if out is None and not json and not coco:
        out = Path("predictions")
    pictures, maps = picture_names(files), picture_names([file.with_suffix(".png") for file in files])
    if out is not None:
        keep_originals(files, [*(out / name for name in pictures), *(out / LABELS / name for name in maps)])
    entries: list[dict] = [{}] * len(files)
    rows: list[list[dict]] = [[]] * len(files)
    with cli.progress("predicting", len(files)) as done:
        for count, (index, found) in enumerate(detector.stream(files, score=score, batch_size=batch_size), 1):
            if isinstance(found, detectors.Segmentation):
                labels = found.save_labels(out / LABELS / maps[index]) if out is not None else None
                entries[index] = found.to_dict(str(labels) if labels else None)
            else:
                entries[index] = found.to_dict()
                rows[index] = found.to_coco(stem_id(found.image), detector.category_ids) if coco else []
                found = found.above(drawn)
            if out is not None:
                found.save(out / pictures[index])
            done(count)
    if json:
        cli.write_json(json, entries)
    if coco:
        cli.write_json(coco, list(chain.from_iterable(rows)))
    if out is not None:
        cli.say(f"{len(files)} pictures in {out}")
