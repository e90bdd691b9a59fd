"""The toolkits whose weights are read, as a table; each one's module is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from rcnn.errors import UserError, nearest
from rcnn.interop.imported import Asked, Imported

# Toolkit → the module whose `read(path, asked)` gives `Imported`.
READERS = {
    "torchvision": "rcnn.interop.torchvision",
    "detectron2": "rcnn.interop.detectron2",
    "caffe": "rcnn.interop.caffe",
}


def read(source: str, path: str | Path, asked: Asked | None = None) -> Imported:
    """The model in a file of the toolkit `source`, with the conventions that its weights were trained under.

    Args:
        source: a key of `READERS`.
        path: the file.
        asked: what the file's keys do not say.

    Raises:
        UserError: an unknown toolkit, or a file that its reader refuses.
    """
    if source not in READERS:
        raise UserError(f"'{source}' is no toolkit whose weights are read{nearest(source, READERS)}")
    return import_module(READERS[source]).read(Path(path), asked or Asked())
