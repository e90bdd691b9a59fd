"""Models in the forms of other programs: a table of formats, one module each, loaded when it is asked for.

`rcnn.export` is this folder and a function as well: `rcnn.export(model, "torchvision", "model.pth")`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rcnn.errors import UserError, nearest

if TYPE_CHECKING:
    from rcnn.detectors import Model

__all__ = ["EXPORTERS", "Exporter", "export"]


@dataclass(frozen=True)
class Exporter:
    """One format.

    Attributes:
        title: what is written, in a few words.
        module: has `write(model, path) -> list[str]`: it writes the file whole or not at all, and returns sentences on
            how to use it.
        suffixes: of its files, the usual one first.
    """

    title: str
    module: str
    suffixes: tuple[str, ...]


EXPORTERS = {
    "torchvision": Exporter(
        "a state dict that torchvision's constructor loads",
        "rcnn.export.torchvision",
        (".pth", ".pt", ".safetensors"),
    ),
}


def export(model: Model[Any] | str | Path, format: str, path: str | Path) -> list[str]:
    """Writes a model, or that of a run or model folder, in the form of another program.

    Args:
        model: the model or its folder.
        format: a key of `EXPORTERS`.
        path: the file to write; its suffix is one of the format's.

    Returns:
        Sentences on what was written and how to use it.

    Raises:
        UserError: an unknown format or suffix, or a model that the format cannot hold; nothing is written then.
    """
    if format not in EXPORTERS:
        raise UserError(f"there is no format '{format}'{nearest(format, EXPORTERS)}")
    path, exporter = Path(path), EXPORTERS[format]
    if path.suffix not in exporter.suffixes:
        raise UserError(f"--out '{path}': the format {format} is written as {' or '.join(exporter.suffixes)}")
    if isinstance(model, str | Path):
        from rcnn.detectors import load

        model = load(model, device="cpu")
    return import_module(exporter.module).write(model, path)


class _Callable(ModuleType):
    """The module as the function that it is named after, whichever of the two an import finds first."""

    def __call__(self, model: Model[Any] | str | Path, format: str, path: str | Path) -> list[str]:
        """As `export`."""
        return export(model, format, path)


sys.modules[__name__].__class__ = _Callable
