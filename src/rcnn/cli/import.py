"""`rcnn import`: a model folder from another toolkit's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn import cli
from rcnn.errors import UserError

if TYPE_CHECKING:
    from rcnn.interop import Imported


def command(
    source: Annotated[str, typer.Argument(help="Whose weights: torchvision, detectron2 or caffe.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The weights file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New model folder.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="The toolkit's name of the model, where the file's keys leave it open.")
    ] = "",
    bn_eps: Annotated[
        float | None, typer.Option(min=0, help="eps of batch norm, where the keys leave it open: 0.0, 1e-5, …")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file of the classes' names, one a line.")] = None,
) -> None:
    """Makes a model folder of another toolkit's weights, with the conventions that they were trained under.

    rcnn import torchvision fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth --out models/coco
    """
    from rcnn.detectors import save
    from rcnn.interop import Asked, built, read
    from rcnn.interop.names import read_names

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out '{out}' exists already; expected a new folder")
    names = None if classes is None else read_names(classes)
    imported = read(source, file, Asked(model=model, bn_eps=bn_eps, classes=names))
    save(built(imported), out, about={"imported": {"from": source, "file": file.name, "notes": imported.notes}})
    _tell(imported, out)


def _tell(imported: Imported, out: Path) -> None:
    """Prints what was recognised, the settings that differ from the modern preset, and the notes."""
    from rcnn.training.reading import flat

    show = cli.console().print
    show(f"{imported.system}, {len(imported.classes)} classes, {len(imported.state)} tensors")
    show("its conventions:")
    for key, value in flat({"model": dict(imported.settings)}).items():
        show(f"  {key} = {value}")
    for note in imported.notes:
        show(f"note: {note}")
    show(f"the model is in {out}")
