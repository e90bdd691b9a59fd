"""Faster R-CNN (Ren et al. 2015): one backbone, a network that proposes regions on its maps, and Fast R-CNN on them.

    image → backbone → maps ─┬→ RPN → proposals ─┐
                             └──── RoI pooling ←─┘→ box head → classes and boxes

Letters: B images, C channels, N proposals, S sampled RoIs, K classes, P pooled side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.data.transforms import ResizeRule
from rcnn.detectors.two_stage import TwoStage
from rcnn.errors import UserError
from rcnn.heads import BoxHead, BoxHeadOptions, Look, box_trunk
from rcnn.pooling import PoolOptions, roi_pooling
from rcnn.proposals import RPN, AnchorOptions, Anchors, RPNOptions


@dataclass(frozen=True)
class FasterRCNNOptions:
    """Every setting of the system; the defaults are the modern recipe with FPN.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second.
        resize: how; "antialias", or "torchvision" as its detectors do, see `data.transforms.resize`.
        backbone: see `BackboneOptions`.
        shared_backbone: whether RPN and box head read the same maps; without, the RPN has a backbone of its own, as
            alternating training leaves it when nothing is frozen.
        proposal_gradient: the weight with which the box head's losses move the proposals too, at most 1 (Ren et al.
            2017, section 3.2, item iii: non-approximate joint training, where it is 1); above 0 it needs RoI warping.
        anchors: see `AnchorOptions`.
        rpn: see `RPNOptions`.
        pool: see `PoolOptions`.
        box: see `BoxHeadOptions`.
    """

    image_size: tuple[int, int] = (800, 1333)
    resize: ResizeRule = "antialias"
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    shared_backbone: bool = True
    proposal_gradient: float = 0.0
    anchors: AnchorOptions = field(default_factory=AnchorOptions)
    rpn: RPNOptions = field(default_factory=RPNOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)
    box: BoxHeadOptions = field(default_factory=BoxHeadOptions)

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")
        if not 0 <= self.proposal_gradient <= 1:
            raise UserError(f"model.proposal_gradient = {self.proposal_gradient}: expected a weight from 0 to 1")
        if self.proposal_gradient and self.pool.kind != "warp":
            raise UserError(
                f"model.proposal_gradient needs model.pool.kind = 'warp': '{self.pool.kind}' gives boxes no gradient"
            )


def modern(strides: Sequence[int]) -> FasterRCNNOptions:
    """Today's recipe for maps of `strides`: an anchor size a pyramid level, RoIAlign (Lin et al. 2017, He et al. 2017).

    A single map gets five sizes at every place instead, with the proposal numbers of Detectron2's C4 models.
    """
    if len(strides) > 1:
        return FasterRCNNOptions(anchors=AnchorOptions(sizes=tuple((8.0 * stride,) for stride in strides)))
    return FasterRCNNOptions(
        anchors=AnchorOptions(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),)),
        rpn=RPNOptions(pre_nms=(12000, 6000), post_nms=(2000, 1000)),
    )


def classic(strides: Sequence[int]) -> FasterRCNNOptions:
    """The recipe of the paper and its code (SPEC of the lineage, section 5): nine anchors, RoI max pooling, 128 RoIs.

    On a pyramid the anchors keep one size a level, and proposal numbers are counted per level (Lin et al. 2017).
    """
    pyramid = len(strides) > 1
    sizes = tuple((8.0 * stride,) for stride in strides) if pyramid else ((128.0, 256.0, 512.0),)
    return FasterRCNNOptions(
        image_size=(600, 1000),
        anchors=AnchorOptions(sizes=sizes, rounding="none" if pyramid else "caffe"),
        rpn=RPNOptions(
            objectness="softmax",
            border=0.0,
            loss_beta=1.0,
            box_weight=10.0,
            box_normaliser="positions",
            pre_nms=(2000, 1000) if pyramid else (12000, 6000),
            post_nms=(2000, 1000) if pyramid else (2000, 300),
            min_size=16.0,
        ),
        pool=PoolOptions(kind="pool"),
        box=BoxHeadOptions(samples=128, loss_beta=1.0, nms=0.3),
    )


class FasterRCNN(TwoStage):
    """Proposals from shared maps, then one look at each region.

    Args:
        system: the name, such as "faster-rcnn/resnet50-fpn".
        classes: names of the K classes.
        backbone: gives maps [B, C, H, W] of its strides; its `head`, if it has one, becomes the box head's trunk.
        options: see `FasterRCNNOptions`.
    """

    options: FasterRCNNOptions

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: FasterRCNNOptions) -> None:
        super().__init__(system, classes, options)
        extra = backbone.fpn.extra if backbone.fpn is not None else 0  # P6 proposes, but nothing is pooled from it
        channels = backbone.channels[0]
        box = options.box
        trunk, width, size = box_trunk(backbone, options.pool.size, box.hidden, box.convs, box.norm)
        self.backbone = backbone
        self.rpn = RPN(channels, Anchors(options.anchors, backbone.strides), options.rpn)
        self.roi_pool = roi_pooling(options.pool, size, backbone.strides[: len(backbone.strides) - extra])
        self.box_head = BoxHead(trunk, width, len(self.classes), options.box)
        self.rpn_backbone = None if options.shared_backbone else copy.deepcopy(backbone)
        self.proposal_gradient = options.proposal_gradient

    @property
    def resize_rule(self) -> ResizeRule:
        """How images are brought to the size of the options."""
        return self.options.resize

    def reader(self, features: list[Tensor]) -> Look:
        """RoI pooling from the maps [B, C, H, W], then the box head."""
        return lambda boxes, valid: self.box_head(self.roi_pool(features, boxes, valid))
