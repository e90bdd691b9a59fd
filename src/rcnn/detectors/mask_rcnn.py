"""Mask R-CNN (He et al. 2017): Faster R-CNN, and beside its box head a third branch that says which pixels of a region
are the object.

    image → backbone → maps ─┬→ RPN → proposals ─┐
                             ├──── RoIAlign ←────┴→ box head → classes and boxes ─┐
                             └──── RoIAlign ←─────────────────────────────────────┴→ mask head → masks

In training the masks of the positive proposals are learnt, at test those of the detections are made. Letters: B images,
C channels, N proposals, D detections, K classes, M cells along a mask's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.backbones import Backbone
from rcnn.backbones.resnet import MeanPool
from rcnn.detectors import faster_rcnn
from rcnn.detectors.faster_rcnn import FasterRCNN, FasterRCNNOptions
from rcnn.errors import UserError
from rcnn.heads.box import BoxHead
from rcnn.heads.mask import MaskHead, MaskHeadOptions, MaskLook
from rcnn.kernels.paste import PasteRule
from rcnn.pooling import PoolOptions, roi_pooling
from rcnn.structures import Batch, DetectionBatch, ImageBatch, Proposals


@dataclass(frozen=True)
class MaskRCNNOptions(FasterRCNNOptions):
    """Every setting of the system: those of `FasterRCNNOptions`, and of the mask branch.

    Attributes:
        mask: see `MaskHeadOptions`.
    """

    mask: MaskHeadOptions = field(default_factory=MaskHeadOptions)


def _with_masks(options: FasterRCNNOptions) -> MaskRCNNOptions:
    """The options of Faster R-CNN with those of the mask branch beside them."""
    return MaskRCNNOptions(**{entry.name: getattr(options, entry.name) for entry in fields(options)})


def modern(strides: Sequence[int]) -> MaskRCNNOptions:
    """Today's recipe: Faster R-CNN's, which is Mask R-CNN's own but for the mask branch."""
    return _with_masks(faster_rcnn.modern(strides))


def classic(strides: Sequence[int]) -> MaskRCNNOptions:
    """The recipe of the paper and its code (section 3.1): 512 RoIs an image on a pyramid, 64 on a single map, which
    proposes 300 at test; RoIAlign without the half-pixel shift; anchors across the border do not train.
    """
    options = _with_masks(faster_rcnn.modern(strides))
    pyramid = len(strides) > 1
    rpn = replace(options.rpn, border=0.0, post_nms=(2000, 1000 if pyramid else 300))
    return replace(
        options,
        rpn=rpn if pyramid else replace(rpn, pre_nms=(12000, 6000)),
        pool=PoolOptions(aligned=False),
        box=replace(options.box, samples=512 if pyramid else 64, loss_beta=1.0),
    )


class MaskRCNN(FasterRCNN):
    """Proposals from shared maps, then for each region a class, a box and a mask.

    Args:
        system: the name, such as "mask-rcnn/resnet50-fpn".
        classes: names of the K classes.
        backbone: gives maps [B, C, H, W] of its strides. Where its `head` ends in the mean over the cells (ResNet-C4's
            res5), the mask branch goes on from what the mean would be taken of.
        options: see `MaskRCNNOptions`.
    """

    options: MaskRCNNOptions  # type: ignore[override]
    learns_masks = True

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: MaskRCNNOptions) -> None:
        super().__init__(system, classes, backbone, options)
        head = self.box_head
        assert isinstance(head, BoxHead)
        trunk = head.trunk
        self.shared_layers = isinstance(trunk, nn.Sequential) and isinstance(trunk[-1], MeanPool)
        own = 14 if not self.shared_layers else self.roi_pool.size
        self.mask_pool = roi_pooling(options.pool, options.mask.size or own, self.roi_pool.strides)
        self.mask_head = MaskHead(
            head.channels if self.shared_layers else backbone.channels[0],
            len(self.classes),
            options.mask,
            most=max(1, int(options.box.samples * (options.box.positive_fraction if options.box.ohem is None else 1))),
            own_layers=not self.shared_layers,
        )

    @property
    def mask_threshold(self) -> float:  # type: ignore[override]
        """From which probability on a pixel belongs to the object."""
        return self.options.mask.threshold

    @property
    def mask_paste(self) -> PasteRule:  # type: ignore[override]
        """How masks come back into the image."""
        return self.options.mask.paste

    def mask_reader(self, features: list[Tensor]) -> MaskLook:
        """RoI pooling from the maps [B, C, H, W], then the mask head, in the C4 form behind the box head's res5."""

        def look(boxes: Tensor, valid: Tensor) -> Tensor:
            pooled = self.mask_pool(features, boxes, valid).flatten(0, 1)  # [R, C, P, P]
            if self.shared_layers:
                pooled = self.box_head.trunk[:-1](pooled)  # type: ignore[index]
            return self.mask_head(pooled).unflatten(0, boxes.shape[:2])  # [B, N, K, M, M]

        return look

    def second_stage(
        self, features: list[Tensor], proposals: Proposals, batch: Batch, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The box head's losses and `loss_mask`, of the same RoIs [B, S]: L = L_cls + L_box + L_mask (section 3)."""
        if batch.truth.masks is None:
            raise UserError(
                f"{self.system} learns from masks, and this batch comes without: collate it with masks=True"
            )
        look = self.reader(features)
        samples = self.box_head.choose(look, proposals, batch.truth, generator)
        box = self.box_head.losses(look(samples.boxes, samples.used), samples)
        return {**box, **self.mask_head.losses(self.mask_reader(features), samples, batch.truth.masks)}

    def finder(self, features: list[Tensor], proposals: Proposals, images: ImageBatch) -> Callable[..., DetectionBatch]:
        """Detections of the proposals [B, N], and the masks of those alone (section 3.1, inference)."""
        find = super().finder(features, proposals, images)

        def pick(**wanted: Any) -> DetectionBatch:
            found = find(**wanted)
            return replace(found, masks=self.mask_head.predict(self.mask_reader(features), found))

        return pick
