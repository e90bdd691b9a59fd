"""R-FCN (Dai et al. 2016): Faster R-CNN without layers for each region. The convolutions score places in objects, and a
region pools each of its k × k bins from the maps of its own place.

    image → conv1 … conv4 ─┬→ RPN ────────────────────→ proposals ─┐
                           └→ conv5 (à trous) → 1×1, 1024 ┬→ k²(K+1) score maps ┬→ pooling bin by bin → vote → classes
                                                          └→ 4k² box maps ──────┘                          and boxes

Letters: B images, C channels, K classes, k pooled side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.detectors import faster_rcnn
from rcnn.detectors.two_stage import TwoStage
from rcnn.errors import UserError
from rcnn.heads import Look, PositionSensitiveHead, PSHeadOptions
from rcnn.pooling import PSPoolOptions, PSRoIPool
from rcnn.proposals import RPN, AnchorOptions, Anchors, RPNOptions


@dataclass(frozen=True)
class RFCNOptions:
    """Every setting of the system; the defaults are the modern recipe's.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second.
        backbone: see `BackboneOptions`.
        anchors: see `AnchorOptions`.
        rpn: see `RPNOptions`.
        pool: see `PSPoolOptions`.
        box: see `PSHeadOptions`.
        shared_backbone: whether RPN and box head read maps of the same network; without, the RPN has one of its own, as
            alternating training leaves it when nothing is frozen.
    """

    image_size: tuple[int, int] = (800, 1333)
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    anchors: AnchorOptions = field(default_factory=AnchorOptions)
    rpn: RPNOptions = field(default_factory=RPNOptions)
    pool: PSPoolOptions = field(default_factory=PSPoolOptions)
    box: PSHeadOptions = field(default_factory=PSHeadOptions)
    shared_backbone: bool = True

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")


def modern(strides: Sequence[int]) -> RFCNOptions:
    """Today's recipe: the regions of Faster R-CNN's, bins without rounding, 512 random RoIs an image."""
    regions = faster_rcnn.modern(strides[:1])
    return RFCNOptions(anchors=regions.anchors, rpn=regions.rpn)


def classic(strides: Sequence[int]) -> RFCNOptions:
    """The recipe of the paper and its code (section 6 of the lineage's SPEC): the regions of Faster R-CNN's.

    300 of them in training, too, of which the 128 of the highest loss are learnt from.
    """
    regions = faster_rcnn.classic(strides[:1])
    return RFCNOptions(
        image_size=regions.image_size,
        anchors=regions.anchors,
        rpn=replace(regions.rpn, pre_nms=(6000, 6000), post_nms=(300, 300)),
        pool=PSPoolOptions(kind="pool"),
        box=PSHeadOptions(samples=128, ohem="rfcn", loss_beta=1.0, nms=0.3),
    )


class RFCN(TwoStage):
    """Proposals from conv4's map, votes from conv5's.

    Args:
        system: the name, such as "rfcn/resnet101-c5".
        classes: names of the K classes.
        backbone: gives a map [B, C, H, W]; the à trous form of a ResNet also that before conv5, of the same stride.
            Whatever layers it has for regions are left out.
        options: see `RFCNOptions`.

    Raises:
        UserError: the backbone is a pyramid.
    """

    options: RFCNOptions
    box_head: PositionSensitiveHead  # type: ignore[bad-override]

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: RFCNOptions) -> None:
        super().__init__(system, classes, options)
        if len(set(backbone.strides)) > 1:
            raise UserError(
                f"R-FCN reads one map, and '{backbone.name}' gives {len(backbone.strides)}: expected a backbone of one"
                " stride, such as resnet18-c5"
            )
        backbone.head = None
        backbone.offer_twins()
        self.backbone = backbone
        if not options.shared_backbone:
            self.rpn_backbone = copy.deepcopy(backbone)
            self.rpn_backbone.end_at_first()
        self.rpn = RPN(backbone.channels[0], Anchors(options.anchors, backbone.strides[:1]), options.rpn)
        pool = PSRoIPool(options.pool, backbone.strides[-1])
        self.box_head = PositionSensitiveHead(backbone.channels[-1], len(self.classes), pool, options.box)

    def reader(self, features: list[Tensor]) -> Look:
        """The score and box maps of conv5's map [B, C, H, W], which the bins of every RoI read."""
        return partial(self.box_head, self.box_head.maps(features[-1]))
