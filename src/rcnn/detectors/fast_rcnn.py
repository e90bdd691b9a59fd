"""Fast R-CNN (Girshick 2015): the convolutions see the image once, and each region is pooled from their map.

    image → Selective Search → regions ─┐
      └───→ backbone → map → RoI pooling ←┘→ fc6, fc7 ─┬→ softmax over K + 1 classes ─┐
                                                       └→ deltas of K boxes ──────────┴→ classes and boxes

Letters: B images, C channels, N regions, S sampled RoIs, R valid regions, K classes, P pooled side, D width of fc7,
F = C·P².
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.detectors.base import Detector
from rcnn.errors import UserError
from rcnn.heads import BoxHead, BoxHeadOptions, BoxOutput, box_trunk
from rcnn.heads.fitted import SVMOptions, margin_scores
from rcnn.heads.selection import select
from rcnn.heads.svm import LinearSVMs
from rcnn.pooling import PoolOptions, choose_scales, image_pyramid, roi_pooling
from rcnn.proposals import RegionMethod, RegionOptions, method_of
from rcnn.structures import Batch, DetectionBatch, ImageBatch, Proposals


@dataclass(frozen=True)
class FastRCNNOptions:
    """Every setting of the system; the defaults are the modern recipe's.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second.
        backbone: see `BackboneOptions`.
        regions: see `RegionOptions`.
        pool: see `PoolOptions`.
        box: see `BoxHeadOptions`.
        test_scales: shorter sides in pixels at which an image is seen at test; each region is read at the one where
            its area comes nearest to 224² (section 5.2 of the paper: 480, 576, 688, 864, 1200). Empty: `image_size`
            alone. Training at many scales is `augment.shorter_sides`.
        refine: whether detections are the boxes that the deltas make, or the regions as they came (table 6).
        scores: who judges a region at test: the softmax, or, once they are fitted, linear SVMs on fc7 (section 5.4).
        svm: see `SVMOptions`; for `scores` "svm".
    """

    image_size: tuple[int, int] = (800, 1333)
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    regions: RegionOptions = field(default_factory=RegionOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)
    box: BoxHeadOptions = field(default_factory=BoxHeadOptions)
    test_scales: tuple[int, ...] = ()
    refine: bool = True
    scores: Literal["softmax", "svm"] = "softmax"
    svm: SVMOptions = field(default_factory=SVMOptions)

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")
        if not all(side > 0 for side in self.test_scales):
            raise UserError(f"model.test_scales = {list(self.test_scales)}: expected lengths above 0")


def modern(strides: Sequence[int]) -> FastRCNNOptions:
    """Today's recipe: RoIAlign, from a pyramid's levels where there is one (Lin et al. 2017), 512 RoIs an image."""
    return FastRCNNOptions()


def classic(strides: Sequence[int]) -> FastRCNNOptions:
    """The recipe of the paper: RoI max pooling, 64 RoIs of each of two images, background from an IoU of 0.1."""
    return FastRCNNOptions(
        image_size=(600, 1000),
        regions=RegionOptions(overlap=1.0),
        pool=PoolOptions(kind="pool"),
        box=BoxHeadOptions(samples=64, negative=(0.1, 0.5), loss_beta=1.0, nms=0.3),
    )


class FastRCNN(Detector):
    """One look at the image, then one at each region of its map.

    Args:
        system: the name, such as "fast-rcnn/vgg16".
        classes: names of the K classes.
        backbone: gives maps [B, C, H, W] of its strides; its `head`, if it has one (fc6 and fc7), is the box head's
            trunk.
        options: see `FastRCNNOptions`.

    Raises:
        UserError: several scales at test with a pyramid, whose levels are scales already.
    """

    options: FastRCNNOptions
    parts = ("classify", "boxes")

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: FastRCNNOptions) -> None:
        super().__init__(system, classes, options)
        if options.test_scales and backbone.fpn is not None:
            raise UserError(f"model.test_scales needs a backbone with one map: '{backbone.name}' is a pyramid")
        extra = backbone.fpn.extra if backbone.fpn is not None else 0  # P6 is for an RPN's anchors
        box = options.box
        trunk, width, size = box_trunk(backbone, options.pool.size, box.hidden, box.convs, box.norm)
        self.backbone = backbone
        self.roi_pool = roi_pooling(options.pool, size, backbone.strides[: len(backbone.strides) - extra])
        self.box_head = BoxHead(trunk, width, len(self.classes), options.box)
        self.svm = LinearSVMs(width, len(self.classes)) if options.scores == "svm" else None

    @property
    def region_method(self) -> RegionMethod:
        """What finds the regions [N, 4] of an image [H, W, 3]."""
        return method_of(self.options.regions)

    @property
    def detection_size(self) -> tuple[int, int]:
        """The shorter and the longest side of the largest scale that images are seen at."""
        short, long = self.options.image_size
        largest = max(self.options.test_scales, default=short)
        return largest, round(long * largest / short)

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """`loss_cls`, `loss_box` (equation 1 of the paper) and the mean number of `foreground_rois` an image.

        They are of regions drawn from the batch's [B, N]. `part` "classify" leaves out the one, "boxes" the other:
        stage-wise training (section 5.1).
        """
        proposals = self._given(batch.proposals)
        features = self.backbone(batch.images)

        def look(boxes: Tensor, valid: Tensor) -> BoxOutput:
            return self.box_head(self.roi_pool(features, boxes, valid))

        losses = self.box_head.learn(look, proposals, batch.truth, generator)
        left_out = {"classify": "loss_box", "boxes": "loss_cls"}.get(part)
        return {name: value for name, value in losses.items() if name != left_out}

    def examine(self, images: ImageBatch, proposals: Proposals | None = None) -> Callable[..., DetectionBatch]:
        """The networks' part of `detect`, on the regions `proposals` [B, N], which must be given."""
        proposals = self._given(proposals)
        hidden = torch.cat([self.box_head.describe(pooled) for pooled in self._pooled(images, proposals)])  # [B, N, D]
        output = self.box_head.predict(hidden)
        if not self.options.refine:
            output = BoxOutput(output.logits, torch.zeros_like(output.deltas))
        if self.svm is not None and bool(self.svm.weight.any()):
            scores = margin_scores(self.svm(hidden.flatten(0, 1))).unflatten(0, hidden.shape[:2])  # [B, N, K]
            return self._judged(scores, output, images, proposals)
        return partial(self.box_head.detect, output, proposals, images)

    def region_features(self, images: ImageBatch, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """pool5 [R, F] and fc7 [R, D] of the valid ones among proposals [B, N], image by image, in float32."""
        pool5, fc7 = [], []
        for pooled, valid in zip(self._pooled(images, proposals), proposals.valid, strict=True):
            pooled = pooled[:, valid]  # [1, R_b, C, P, P]
            pool5.append(pooled[0].flatten(1).float())
            fc7.append(self.box_head.describe(pooled)[0])
        return torch.cat(pool5), torch.cat(fc7)

    def _given(self, proposals: Proposals | None) -> Proposals:
        """The proposals, which the system cannot do without."""
        if proposals is None:
            raise UserError(f"{self.system} looks at regions and finds none itself: give it proposals")
        return proposals

    def _pooled(self, images: ImageBatch, proposals: Proposals) -> Iterator[Tensor]:
        """RoI features [1, N, C, P, P], image by image: those of many images would not fit into memory."""
        boxes, scales, pyramid = proposals.boxes, None, [images]
        if self.options.test_scales:
            pyramid = image_pyramid(images, self.options.test_scales)
            boxes, scales = choose_scales(boxes, proposals.valid, images.sizes, pyramid)
        maps = [feature for seen in pyramid for feature in self.backbone(seen)]
        for b in range(len(images)):
            one = slice(b, b + 1)
            own = None if scales is None else scales[one]
            yield self.roi_pool([feature[one] for feature in maps], boxes[one], proposals.valid[one], own)

    def _judged(
        self, scores: Tensor, output: BoxOutput, images: ImageBatch, proposals: Proposals
    ) -> Callable[..., DetectionBatch]:
        """The end of `detect` with these scores [B, N, K] in place of the softmax's."""
        options = self.options.box
        deltas = output.deltas.expand(-1, -1, scores.shape[-1], -1)  # [B, N, K, 4]
        boxes = self.box_head.decode(deltas, proposals.boxes[:, :, None].expand_as(deltas))

        def pick(*, score: float | None, capacity: int) -> DetectionBatch:
            return select(
                scores,
                boxes,
                proposals.valid,
                images,
                score=options.score if score is None else score,
                nms=options.nms,
                detections=options.detections,
                capacity=capacity,
                min_size=options.min_size,
            )

        return pick
