"""What is said of a region: its class and its better box."""

from rcnn.heads.box import BoxHead, BoxHeadOptions, BoxOutput, SharedFC
from rcnn.heads.trunk import box_trunk

__all__ = ["BoxHead", "BoxHeadOptions", "BoxOutput", "SharedFC", "box_trunk"]
