"""Weights and results from and to other toolkits: torchvision, Detectron2, Caffe; COCO, VOC, supervision.

from rcnn.interop import built, read
model = built(read("torchvision", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"))
"""

from __future__ import annotations

from rcnn.interop.imported import Asked, Imported, built
from rcnn.interop.readers import READERS, read

__all__ = ["READERS", "Asked", "Imported", "built", "read"]
