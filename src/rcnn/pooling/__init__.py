"""From regions of any size to features of one size: each member of the family has its own way.

R-CNN warps the pixels, SPP-net pools a pyramid of bins from the map, Fast and Faster R-CNN a single grid (RoIPool),
Mask R-CNN samples the map (RoIAlign), and so does non-approximate joint training (RoI warping), whose regions get a
gradient themselves. On a pyramid of maps `LevelRule` says which one a region reads.
"""

from __future__ import annotations

from rcnn.pooling.levels import LevelRule
from rcnn.pooling.options import PoolOptions, roi_pooling
from rcnn.pooling.ps_roi_pool import PSPoolOptions, PSRoIPool, vote
from rcnn.pooling.roi_align import RoIAlign
from rcnn.pooling.roi_pool import RoIPool
from rcnn.pooling.roi_warp import RoIWarp
from rcnn.pooling.scales import choose_scales, image_pyramid
from rcnn.pooling.spp import SpatialPyramidPool, SPPOptions, nearest_scale
from rcnn.pooling.warp import Warp, WarpOptions

__all__ = [
    "LevelRule",
    "PSPoolOptions",
    "PSRoIPool",
    "PoolOptions",
    "RoIAlign",
    "RoIPool",
    "RoIWarp",
    "SPPOptions",
    "SpatialPyramidPool",
    "Warp",
    "WarpOptions",
    "choose_scales",
    "image_pyramid",
    "nearest_scale",
    "roi_pooling",
    "vote",
]
