"""Where regions come from: anchors and the region proposal network."""

from rcnn.proposals.anchors import AnchorOptions, Anchors
from rcnn.proposals.rpn import RPN, RPNOptions

__all__ = ["RPN", "AnchorOptions", "Anchors", "RPNOptions"]
