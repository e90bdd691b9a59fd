"""Chooses the form of the kernels that runs on a device: numba, torchvision's compiled operators or plain torch."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType


@cache
def form(device: str) -> ModuleType:
    """The module whose `nms`, `roi_align`, `roi_pool`, … run on tensors of a device type ("cpu", "cuda", "mps", …).

    Numba is imported here, at the first call, so that `import rcnn` stays quick; where it is missing or broken
    torchvision's operators take over.
    """
    if device == "cpu":
        try:
            return importlib.import_module("rcnn.kernels.cpu")
        except ImportError:
            return importlib.import_module("rcnn.kernels.torchvision_ops")
    if device == "cuda":
        return importlib.import_module("rcnn.kernels.torchvision_ops")
    return importlib.import_module("rcnn.kernels.reference")


def array_form() -> ModuleType:
    """The module whose `convert`, `segment`, `group`, … run on numpy arrays: numba's, else the plain one."""
    fast = form("cpu")
    return fast if hasattr(fast, "segment") else importlib.import_module("rcnn.kernels.reference")
