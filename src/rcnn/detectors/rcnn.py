"""R-CNN (Girshick et al. 2014): a convolutional network looks at each region of an image, one by one.

    image → Selective Search → regions → warp → backbone ─┬→ fc7   → K linear SVMs ──────┐
                                                          └→ pool5 → K ridge regressors ─┴→ classes and boxes

Letters: B images, N proposals, R regions, C channels, S side of a crop, K classes, F and D length of pool5 and fc7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.detectors.three_stage import FineTuneOptions, ThreeStageDetector
from rcnn.errors import UserError
from rcnn.heads.classifier import Classifier
from rcnn.heads.fitted import RidgeOptions, SVMOptions
from rcnn.pooling import Warp, WarpOptions
from rcnn.proposals import RegionOptions
from rcnn.structures import Batch, ImageBatch, Proposals


@dataclass(frozen=True)
class RCNNOptions:
    """Every setting of the system.

    Attributes:
        image_size: the image that regions are cut from, by its shorter side in pixels, unless the longer side would
            exceed the second number. Crops have a size of their own, so this only bounds what is kept in memory.
        backbone: see `BackboneOptions`.
        regions: see `RegionOptions`.
        warp: see `WarpOptions`.
        finetune: see `FineTuneOptions`.
        svm: see `SVMOptions`.
        ridge: see `RidgeOptions`.
        crops: regions that go through the network at once, outside of training.
        score: detections of a lower score are dropped.
        nms: IoU above which the lesser detection of the same class is dropped.
        detections: the most detections of an image.
    """

    image_size: tuple[int, int] = (600, 1000)
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    regions: RegionOptions = field(default_factory=RegionOptions)
    warp: WarpOptions = field(default_factory=WarpOptions)
    finetune: FineTuneOptions = field(default_factory=FineTuneOptions)
    svm: SVMOptions = field(default_factory=SVMOptions)
    ridge: RidgeOptions = field(default_factory=RidgeOptions)
    crops: int = 128
    score: float = 0.05
    nms: float = 0.3
    detections: int = 100

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")


def classic(strides: Sequence[int]) -> RCNNOptions:
    """The recipe of the paper and its code: 227² stretched crops, 16 px of context, regions searched at width 500."""
    return RCNNOptions(regions=RegionOptions(width=500, overlap=1.0))


def modern(strides: Sequence[int]) -> RCNNOptions:
    """The same system on 224² crops, the size of today's classifiers, cut out of regions found at the image's own size.

    Nothing else that is new would leave R-CNN what it is.
    """
    return RCNNOptions(warp=WarpOptions(size=224))


class RCNN(ThreeStageDetector):
    """A classifier on every region.

    Args:
        system: the name, such as "rcnn/alexnet".
        classes: names of the K classes.
        backbone: an image classifier; all of its layers look at crops.
        options: see `RCNNOptions`.
    """

    options: RCNNOptions

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: RCNNOptions) -> None:
        classifier = Classifier(backbone)
        super().__init__(
            system, classes, options, pool5_channels=classifier.pool5_channels, channels=classifier.channels
        )
        self.warp = Warp(options.warp)
        self.backbone = backbone
        self.classifier = classifier

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """The softmax loss `loss_cls` of the fine-tuning, and `accuracy`.

        Args:
            batch: images with their proposals, of which regions are drawn; for the parts, crops [R, 3, S, S] as images
                with one label each, −1 for background.
            generator: of the draw.
            part: "pretrain" tells the K classes apart on crops of objects, "finetune" background too.
        """
        if not part:
            regions, labels = self.drawn(batch, generator)
            return self.classification_loss(self.region_features(batch.images, regions)[1], labels)
        loss = self.object_loss if part == "pretrain" else self.classification_loss
        return loss(self.crop_features(batch.images)[1], batch.truth.labels[:, 0])

    def crop_features(self, crops: ImageBatch) -> tuple[Tensor, Tensor]:
        """pool5 [R, F] and fc7 [R, D] of R crops."""
        return self.classifier(self.backbone(crops)[-1])

    def crops_of(self, pixels: Tensor, boxes: Tensor) -> ImageBatch:
        """The crops of boxes [R, 4] in an image [3, H, W] uint8 without padding."""
        crops = self.warp(pixels, boxes, self.backbone.normalise.mean_colour)
        sizes = torch.full((len(boxes), 2), float(crops.shape[-1]), device=crops.device)
        return ImageBatch(crops, sizes)

    def region_features(self, images: ImageBatch, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """pool5 [R, F] and fc7 [R, D] of the valid ones among proposals [B, N], image by image, in float32."""
        pool5 = [proposals.boxes.new_empty((0, self.classifier.pool5_channels))]
        fc7 = [proposals.boxes.new_empty((0, self.classifier.channels))]
        for pixels, size, boxes, valid in zip(
            images.pixels, images.sizes.tolist(), proposals.boxes, proposals.valid, strict=True
        ):
            image = pixels[:, : int(size[0]), : int(size[1])]
            for part in boxes[valid].split(self.options.crops):
                features = self.crop_features(self.crops_of(image, part))
                pool5.append(features[0].float())
                fc7.append(features[1].float())
        return torch.cat(pool5), torch.cat(fc7)
