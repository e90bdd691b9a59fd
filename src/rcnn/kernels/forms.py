"""Chooses the form of the kernels that runs on a device: numba, Triton, torchvision's compiled operators or
plain torch.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def form(device: str) -> ModuleType:
    """The module whose `nms`, `roi_align`, `roi_pool`, … run on tensors of a device type ("cpu", "cuda", "mps", …).

    Numba and Triton are imported here, at the first call, so that `import rcnn` stays quick; where one is missing or
    broken torchvision's operators take over.
    """
    if device == "cpu":
        try:
            return importlib.import_module("rcnn.kernels.cpu")
        except ImportError:
            return importlib.import_module("rcnn.kernels.torchvision_ops")
    if device == "cuda":
        return _on_gpus()
    return importlib.import_module("rcnn.kernels.reference")


def _on_gpus() -> ModuleType:
    """Triton's kernels where they run, else torchvision's; says so where that is a surprise."""
    try:
        found = importlib.import_module("rcnn.kernels.cuda")
        found.check()
        return found
    except ImportError:  # no Triton, or GPUs that it was not written for
        pass
    except Exception as error:  # Triton compiles at first use, with whatever tools it finds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(f"Triton's kernels do not run here, torchvision's take their place: {reason}", stacklevel=3)
    return importlib.import_module("rcnn.kernels.torchvision_ops")


def array_form() -> ModuleType:
    """The module whose `convert`, `segment`, `group`, … run on numpy arrays: numba's, else the plain one."""
    fast = form("cpu")
    return fast if hasattr(fast, "segment") else importlib.import_module("rcnn.kernels.reference")
