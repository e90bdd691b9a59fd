"""Faster R-CNN (Ren et al. 2015): one backbone, a network that proposes regions on its maps, and Fast R-CNN on them.

    image → backbone → maps ─┬→ RPN → proposals ─┐
                             └──── RoI pooling ←─┘→ box head → classes and boxes

Letters: B images, C channels, N proposals, S sampled RoIs, K classes, P pooled side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.data.transforms import resized_size
from rcnn.detectors.base import Detector
from rcnn.errors import UserError
from rcnn.heads import BoxHead, BoxHeadOptions, box_trunk
from rcnn.pooling import PoolOptions, roi_pooling
from rcnn.proposals import RPN, AnchorOptions, Anchors, RPNOptions
from rcnn.structures import Batch, DetectionBatch, ImageBatch, Proposals


@dataclass(frozen=True)
class FasterRCNNOptions:
    """Every setting of the system; the defaults are the modern recipe with FPN.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second.
        backbone: see `BackboneOptions`.
        anchors: see `AnchorOptions`.
        rpn: see `RPNOptions`.
        pool: see `PoolOptions`.
        box: see `BoxHeadOptions`.
    """

    image_size: tuple[int, int] = (800, 1333)
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    anchors: AnchorOptions = field(default_factory=AnchorOptions)
    rpn: RPNOptions = field(default_factory=RPNOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)
    box: BoxHeadOptions = field(default_factory=BoxHeadOptions)

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")


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


class FasterRCNN(Detector):
    """Proposals from shared maps, then one look at each region.

    Args:
        system: the name, such as "faster-rcnn/resnet50-fpn".
        classes: names of the K classes.
        backbone: gives maps [B, C, H, W] of its strides; its `head`, if it has one, becomes the box head's trunk.
        options: see `FasterRCNNOptions`.
    """

    options: FasterRCNNOptions
    parts = ("rpn", "detector")

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: FasterRCNNOptions) -> None:
        super().__init__(system, classes, options)
        extra = backbone.fpn.extra if backbone.fpn is not None else 0  # P6 proposes, but nothing is pooled from it
        channels = backbone.channels[0]
        trunk, width, size = box_trunk(backbone, options.pool.size, options.box.hidden)
        self.backbone = backbone
        self.rpn = RPN(channels, Anchors(options.anchors, backbone.strides), options.rpn)
        self.roi_pool = roi_pooling(options.pool, size, backbone.strides[: len(backbone.strides) - extra])
        self.box_head = BoxHead(trunk, width, len(self.classes), options.box)

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """`loss_rpn_cls`, `loss_rpn_box`, `loss_cls`, `loss_box` and the mean number of `foreground_rois` an image.

        Approximate joint training (section 3.2 of the paper): the proposals' coordinates are taken as given. `part`
        "rpn" is its first two; "detector" the rest, on `batch.proposals` if there are any.
        """
        features = self.backbone(batch.images)
        if part == "detector" and batch.proposals is not None:
            return self._box_losses(features, batch.proposals, batch, generator)
        regions = self.rpn(features, batch.images)
        box = {}
        if part != "rpn":
            proposals = self.rpn.propose(regions, batch.images, training=True)
            box = self._box_losses(features, proposals, batch, generator)
        rpn = self.rpn.losses(regions, batch.images, batch.truth, generator) if part != "detector" else {}
        return {**rpn, **box}

    def _box_losses(
        self, features: list[Tensor], proposals: Proposals, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The second stage's losses on some of the proposals [B, N], read from maps [B, C, H, W]."""
        samples = self.box_head.draw(proposals, batch.truth, generator)
        output = self.box_head(self.roi_pool(features, samples.boxes, samples.used))
        return self.box_head.losses(output, samples)

    def advice(self, sizes: np.ndarray) -> list[str]:
        """Says, or refuses, if images of `sizes` [N, 2] are too small for anchors that may not cross their edge."""
        resized = [resized_size(height, width, *self.options.image_size) for height, width in sizes.tolist()]
        return self.rpn.advice(torch.tensor(resized, dtype=torch.float32))

    def examine(self, images: ImageBatch, proposals: Proposals | None = None) -> Callable[..., DetectionBatch]:
        """The networks' part of `detect`; `proposals`, where given, stand in for the RPN's."""
        features = self.backbone(images)
        if proposals is None:
            proposals = self.rpn.propose(self.rpn(features, images), images, training=False)
        output = self.box_head(self.roi_pool(features, proposals.boxes, proposals.valid))
        return partial(self.box_head.detect, output, proposals, images)
