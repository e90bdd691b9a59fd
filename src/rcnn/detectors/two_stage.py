"""What the systems with a region proposal network share: proposals from shared maps, then one look at each region.

Letters: B images, C channels, N proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.backbones import Backbone
from rcnn.data.transforms import resized_size
from rcnn.detectors.base import Detector
from rcnn.heads import Look, RoIHead
from rcnn.proposals import RPN
from rcnn.structures import Batch, DetectionBatch, ImageBatch, Proposals


class TwoStage(Detector):
    """A detector of two stages, as a rule on one backbone.

    Subclasses build the parts `backbone`, `rpn` and `box_head`, and say in `reader` how the second stage sees a region.

    Attributes:
        rpn_backbone: what the RPN reads where it does not share the second stage's `backbone`; else None.
        proposal_gradient: the weight with which the second stage's losses move the proposals too.
    """

    backbone: Backbone
    rpn_backbone: Backbone | None
    rpn: RPN
    box_head: RoIHead
    proposal_gradient: float = 0.0
    parts = ("rpn", "detector")

    def __init__(self, system: str, classes: Sequence[str], options: Any) -> None:
        super().__init__(system, classes, options)
        self.rpn_backbone = None

    @property
    def proposing(self) -> tuple[Backbone, RPN]:
        """The part that proposes."""
        return self.rpn_backbone or self.backbone, self.rpn

    def propose(self, images: ImageBatch, *, training: bool) -> Proposals:
        """The proposals [B, N] for a batch; `training` picks their number, not a mode."""
        backbone, rpn = self.proposing
        return rpn.propose(rpn(backbone(images), images), images, training=training)

    def reader(self, features: list[Tensor]) -> Look:
        """What the second stage says of boxes [B, N, 4] where valid [B, N], read from the maps [B, C, H, W]."""
        raise NotImplementedError

    def second_stage(
        self, features: list[Tensor], proposals: Proposals, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The second stage's losses on some of the proposals [B, N], read from the maps [B, C, H, W]."""
        return self.box_head.learn(self.reader(features), proposals, batch.truth, generator)

    def finder(self, features: list[Tensor], proposals: Proposals, images: ImageBatch) -> Callable[..., DetectionBatch]:
        """What makes detections of the proposals [B, N], as of `examine`."""
        output = self.reader(features)(proposals.boxes, proposals.valid)
        return partial(self.box_head.detect, output, proposals, images)

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """`loss_rpn_cls`, `loss_rpn_box`, `loss_cls`, `loss_box` and the mean number of `foreground_rois` an image.

        Approximate joint training (Ren et al. 2017, section 3.2, item ii) takes the proposals' coordinates as given;
        with `proposal_gradient` it is no longer approximate (item iii). `part` "rpn" is the first two; "detector" the
        rest, on `batch.proposals` if there are any.
        """
        apart = self.rpn_backbone
        features = self.backbone(batch.images) if apart is None or part != "rpn" else []
        if part == "detector" and batch.proposals is not None:
            return self.second_stage(features, batch.proposals, batch, generator)
        maps = features if apart is None else apart(batch.images)
        regions = self.rpn(maps, batch.images, sampled=not self.proposal_gradient)
        box = {}
        if part != "rpn":
            proposals = self.rpn.propose(regions, batch.images, training=True, gradient=self.proposal_gradient)
            box = self.second_stage(features, proposals, batch, generator)
        rpn = self.rpn.losses(regions, batch.images, batch.truth, generator) if part != "detector" else {}
        return {**rpn, **box}

    def advice(self, sizes: np.ndarray) -> list[str]:
        """Says if there are two backbones; says, or refuses, if images of `sizes` [N, 2] are too small for anchors that
        may not cross their edge.
        """
        notes = []
        if self.rpn_backbone is not None:
            notes = ["note: RPN and detector keep a backbone each, and an image passes through both"]
        resized = [
            resized_size(height, width, *self.options.image_size, rule=self.resize_rule)
            for height, width in sizes.tolist()
        ]
        return notes + self.rpn.advice(torch.tensor(resized, dtype=torch.float32))

    def examine(self, images: ImageBatch, proposals: Proposals | None = None) -> Callable[..., DetectionBatch]:
        """The networks' part of `detect`; `proposals`, where given, stand in for the RPN's."""
        features, apart = self.backbone(images), self.rpn_backbone
        if proposals is None:
            regions = self.rpn(features if apart is None else apart(images), images)
            proposals = self.rpn.propose(regions, images, training=False)
        return self.finder(features, proposals, images)
