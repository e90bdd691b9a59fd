"""The kernels in Triton, for NVIDIA GPUs: one launch for a whole batch and all maps, and no wait for its result.

Nothing is added atomically, so a gradient is the same to the bit in each run, as on the CPU. Block sizes are fixed
by the number of channels: nothing is tuned in a user's first step. Importing this raises ImportError where Triton is
missing, too old, or does not know the GPUs; `rcnn.kernels.forms` then takes torchvision's form.
"""

from __future__ import annotations

import torch
import triton

from rcnn.kernels.cuda.matching import match
from rcnn.kernels.cuda.nms import nms
from rcnn.kernels.cuda.ps_roi_pool import ps_roi_pool, ps_roi_pool_backward
from rcnn.kernels.cuda.roi_align import roi_align, roi_align_backward
from rcnn.kernels.cuda.roi_pool import roi_pool, roi_pool_backward
from rcnn.kernels.reference.roi_warp import roi_warp, roi_warp_backward
from rcnn.kernels.reference.warp import warp

__all__ = [
    "nms",
    "match",
    "roi_align",
    "roi_align_backward",
    "roi_pool",
    "roi_pool_backward",
    "ps_roi_pool",
    "ps_roi_pool_backward",
    "roi_warp",
    "roi_warp_backward",
    "warp",
    "check",
]

# What came with torch 2.11, the oldest that this library runs on: tuples as arguments, loops over their length.
OLDEST_TRITON = (3, 6)
# Ampere: Triton compiles for older GPUs no more, and their tensor cores have no TF32.
OLDEST_GPU = (8, 0)


def check() -> None:
    """Runs two small kernels, each compiled once for a machine; raises what is in the way."""
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST_TRITON:
        raise ImportError(f"Triton {triton.__version__} is too old")
    if torch.version.hip is not None:
        raise ImportError("Triton's form was written for NVIDIA GPUs")
    for number in range(torch.cuda.device_count()):
        if torch.cuda.get_device_capability(number) < OLDEST_GPU:
            raise ImportError(f"{torch.cuda.get_device_name(number)} is older than Triton's form")
    boxes = torch.zeros((1, 1, 4), device="cuda")
    match(boxes, boxes, torch.zeros((1, 1), dtype=torch.bool, device="cuda"), None)
