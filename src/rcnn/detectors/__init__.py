"""One file per system of the family, each a composition of the same parts."""

from rcnn.detectors.base import Detector, Model, evaluating
from rcnn.detectors.compression import compress
from rcnn.detectors.detections import Detections
from rcnn.detectors.options import to_mapping, updated
from rcnn.detectors.registry import RECIPES, SYSTEMS, System, create, parse, semantic
from rcnn.detectors.segmentations import Segmentation
from rcnn.detectors.segmenter import Segmenter
from rcnn.detectors.storage import choose_device, find, load, save

__all__ = [
    "RECIPES",
    "SYSTEMS",
    "Detections",
    "Detector",
    "Model",
    "Segmentation",
    "Segmenter",
    "System",
    "choose_device",
    "compress",
    "create",
    "evaluating",
    "find",
    "load",
    "parse",
    "save",
    "semantic",
    "to_mapping",
    "updated",
]
