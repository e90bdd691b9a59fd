"""The kernels in plain torch: short, slow, on every device; what the fast forms must equal."""

from __future__ import annotations

from rcnn.kernels.reference.matching import match
from rcnn.kernels.reference.nms import nms
from rcnn.kernels.reference.roi_align import roi_align, roi_align_backward
from rcnn.kernels.reference.roi_pool import roi_pool, roi_pool_backward
from rcnn.kernels.reference.warp import warp
from rcnn.kernels.reference.weighted_rows import gram_product, row_sum

__all__ = [
    "nms",
    "match",
    "roi_align",
    "roi_align_backward",
    "roi_pool",
    "roi_pool_backward",
    "warp",
    "row_sum",
    "gram_product",
]
