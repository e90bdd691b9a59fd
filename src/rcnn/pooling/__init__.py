"""From regions of any size to features of one size: each member of the family has its own way.

RoIPool is Fast and Faster R-CNN's, RoIAlign is Mask R-CNN's; on a pyramid `LevelRule` says which map a region reads.
"""

from __future__ import annotations

from rcnn.pooling.levels import LevelRule
from rcnn.pooling.roi_align import RoIAlign
from rcnn.pooling.roi_pool import RoIPool

__all__ = ["RoIAlign", "RoIPool", "LevelRule"]
