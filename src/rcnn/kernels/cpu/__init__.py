"""The kernels in numba: serial loops without the interpreter lock, called over threads, cached on disk.

Importing this raises ImportError where numba is missing; `rcnn.kernels.forms` then takes another form.
"""

from __future__ import annotations

from rcnn.kernels.cpu.colour import bin_numbers, convert, smooth
from rcnn.kernels.cpu.dual_descent import descend
from rcnn.kernels.cpu.grouping import group, histograms
from rcnn.kernels.cpu.matching import match
from rcnn.kernels.cpu.nms import nms
from rcnn.kernels.cpu.paste import paste
from rcnn.kernels.cpu.ps_roi_pool import ps_roi_pool, ps_roi_pool_backward
from rcnn.kernels.cpu.roi_align import roi_align, roi_align_backward
from rcnn.kernels.cpu.roi_pool import roi_pool, roi_pool_backward
from rcnn.kernels.cpu.roi_warp import roi_warp, roi_warp_backward
from rcnn.kernels.cpu.segmentation import segment, sorted_edges
from rcnn.kernels.cpu.threads import run
from rcnn.kernels.cpu.warp import warp
from rcnn.kernels.cpu.winograd import winograd_patches, winograd_spread, winograd_tiles

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
