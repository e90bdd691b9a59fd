"""Weights and results from and to other toolkits: torchvision, Detectron2, Caffe; COCO, VOC, supervision."""

from __future__ import annotations

from rcnn.interop.imported import Asked, Imported, built

__all__ = ["Asked", "Imported", "built"]
