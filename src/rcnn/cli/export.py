"""`rcnn export`: a model in the form of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli


def command(
    model: Annotated[Path, typer.Argument(help="Run or model folder.", show_default=False)],
    format: Annotated[str, typer.Option(help="torchvision.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write: .pth, .pt or .safetensors.", show_default=False)],
) -> None:
    """Writes a model in the form of another program.

    torchvision: a state dict that torchvision's own constructor loads; prints the call.
    """
    from rcnn.export import export

    notes = export(model, format, out)
    cli.console().print(f"written: {out}")
    for note in notes:
        cli.console().print(note)
