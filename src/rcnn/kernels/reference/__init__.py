"""The kernels in plain torch or numpy: short, slow, on every device; what the fast forms must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcnn.kernels.reference.colour import bin_numbers, convert, smooth
from rcnn.kernels.reference.dual_descent import descend
from rcnn.kernels.reference.grouping import group, histograms
from rcnn.kernels.reference.matching import match
from rcnn.kernels.reference.nms import nms
from rcnn.kernels.reference.paste import paste
from rcnn.kernels.reference.ps_roi_pool import ps_roi_pool, ps_roi_pool_backward
from rcnn.kernels.reference.roi_align import roi_align, roi_align_backward
from rcnn.kernels.reference.roi_pool import roi_pool, roi_pool_backward
from rcnn.kernels.reference.roi_warp import roi_warp, roi_warp_backward
from rcnn.kernels.reference.segmentation import segment, sorted_edges
from rcnn.kernels.reference.warp import warp
from rcnn.kernels.reference.winograd import winograd_patches, winograd_spread, winograd_tiles

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
    "convert",
    "smooth",
    "bin_numbers",
    "sorted_edges",
    "segment",
    "histograms",
    "group",
    "paste",
    "descend",
    "winograd_patches",
    "winograd_spread",
    "winograd_tiles",
    "run",
]


def run(tasks: Sequence[tuple[Any, ...]], *, operators: bool = False) -> None:
    """Calls each task, a function followed by its arguments, one after the other, whether it calls torch or not."""
    for function, *arguments in tasks:
        function(*arguments)
