"""Data sets: VOC, COCO and YOLO folders and the embedded digits, read, checked, converted, augmented and batched.

Names are loaded when first used, so that reading annotations needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset, Truth, open_dataset
    from rcnn.data.images import read_image
    from rcnn.data.loader import TrainLoader, collate
    from rcnn.data.pictures import draw_boxes
    from rcnn.data.transforms import Augmentation, resize

_HOMES = {
    "open_dataset": "dataset",
    "Dataset": "dataset",
    "Truth": "dataset",
    "read_image": "images",
    "resize": "transforms",
    "Augmentation": "transforms",
    "TrainLoader": "loader",
    "collate": "loader",
    "draw_boxes": "pictures",
}

__all__ = [
    "open_dataset",
    "Dataset",
    "Truth",
    "read_image",
    "resize",
    "Augmentation",
    "TrainLoader",
    "collate",
    "draw_boxes",
]


def __getattr__(name: str) -> Any:
    """Loads a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rcnn.data' has no attribute '{name}'")
    return getattr(import_module(f"rcnn.data.{_HOMES[name]}"), name)
