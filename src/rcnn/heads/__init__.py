"""What is said of a region: its class and its better box."""

from rcnn.heads.box import BoxHead, BoxHeadOptions, SharedFC
from rcnn.heads.position_sensitive import PositionSensitiveHead, PSHeadOptions, PSMaps
from rcnn.heads.roi_head import BoxOutput, Look, RoIHead, RoIHeadOptions
from rcnn.heads.trunk import box_trunk

__all__ = [
    "BoxHead",
    "BoxHeadOptions",
    "BoxOutput",
    "Look",
    "PSHeadOptions",
    "PSMaps",
    "PositionSensitiveHead",
    "RoIHead",
    "RoIHeadOptions",
    "SharedFC",
    "box_trunk",
]
