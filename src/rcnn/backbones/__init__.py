"""Image classifiers as the shared, convolutional part of every detector, one registry for all of them."""

from rcnn.backbones.backbone import Backbone
from rcnn.backbones.options import BackboneOptions
from rcnn.backbones.registry import Entry, create, entry, names, recognise

__all__ = ["Backbone", "BackboneOptions", "Entry", "create", "entry", "names", "recognise"]
