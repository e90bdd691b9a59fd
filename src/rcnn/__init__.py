"""The R-CNN family of detectors, in one coherent library: `create, load, train, evaluate, predict, propose, export`.

Importing `rcnn` imports nothing else: each name below is fetched from its room when it is first used, so
`import rcnn` is instant and no setting of the process changes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn.api import evaluate, predict, propose, train
    from rcnn.data import open_dataset
    from rcnn.detectors import Detections, Segmentation, compress, create, load, save
    from rcnn.errors import RCNNError, UserError
    from rcnn.export import export
    from rcnn.process import tune_process

    __version__: str

__all__ = [
    "Detections",
    "RCNNError",
    "Segmentation",
    "UserError",
    "__version__",
    "compress",
    "create",
    "evaluate",
    "export",
    "load",
    "open_dataset",
    "predict",
    "propose",
    "save",
    "train",
    "tune_process",
]

# Public name → the module that has it.
_ROOMS = {
    "compress": "rcnn.detectors",
    "create": "rcnn.detectors",
    "load": "rcnn.detectors",
    "save": "rcnn.detectors",
    "Detections": "rcnn.detectors",
    "Segmentation": "rcnn.detectors",
    "train": "rcnn.api",
    "evaluate": "rcnn.api",
    "predict": "rcnn.api",
    "propose": "rcnn.api",
    "open_dataset": "rcnn.data",
    "tune_process": "rcnn.process",
    "RCNNError": "rcnn.errors",
    "UserError": "rcnn.errors",
}


def __getattr__(name: str) -> Any:
    """Fetches a public name from its room, once."""
    if name == "__version__":
        value = _version()
    elif name == "export":
        value = importlib.import_module("rcnn.export")  # a folder of modules that is called like a function
    elif name in _ROOMS:
        value = getattr(importlib.import_module(_ROOMS[name]), name)
    else:
        raise AttributeError(f"module 'rcnn' has no attribute '{name}'")
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version; "0+source" in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rcnn")
    except PackageNotFoundError:
        return "0+source"


def __dir__() -> list[str]:
    """The public names, whether fetched yet or not."""
    return sorted({*globals(), *__all__})
