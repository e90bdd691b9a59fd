"""SPP-net (He et al. 2014): the convolutions see the image once, and every region is pooled from their map.

    image → backbone → map ─┐
    Selective Search → regions → spatial pyramid pooling ─┬→ fc6 fc7 → K linear SVMs ─────┐
                                                          └→ K ridge regressors ──────────┴→ classes and boxes

What changed since R-CNN is the first line: pixels are no longer warped, cells of the map are pooled. Letters: B images,
N proposals, R regions, C channels, L scales, K classes, F and D length of the pooled vector and of fc7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rcnn.backbones import Backbone, BackboneOptions
from rcnn.backbones.vgg import FullyConnected
from rcnn.detectors.three_stage import FineTuneOptions, ThreeStageDetector
from rcnn.errors import UserError
from rcnn.heads import SharedFC
from rcnn.heads.fitted import RidgeOptions, SVMOptions
from rcnn.pooling import SpatialPyramidPool, SPPOptions, WarpOptions, choose_scales, image_pyramid
from rcnn.proposals import RegionOptions
from rcnn.structures import Batch, ImageBatch, Proposals

# Pooled side of networks without fully connected layers of their own.
FINEST = 6


@dataclass(frozen=True)
class SPPNetOptions:
    """Every setting of the system.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second.
        test_scales: shorter sides in pixels at which an image is seen outside of training, each region at the one that
            brings its area closest to 224² pixels; empty for `image_size` alone. Training at many scales is
            `augment.shorter_sides`.
        backbone: see `BackboneOptions`.
        regions: see `RegionOptions`.
        spp: see `SPPOptions`.
        hidden: widths of fc6 and fc7 where the backbone has none.
        warp: see `WarpOptions`: how the crops of `pretrain` are made.
        finetune: see `FineTuneOptions`.
        svm: see `SVMOptions`.
        ridge: see `RidgeOptions`.
        score: detections of a lower score are dropped.
        nms: IoU above which the lesser detection of the same class is dropped.
        detections: the most detections of an image.
    """

    image_size: tuple[int, int] = (688, 1200)
    test_scales: tuple[int, ...] = ()
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    regions: RegionOptions = field(default_factory=RegionOptions)
    spp: SPPOptions = field(default_factory=SPPOptions)
    hidden: tuple[int, ...] = (4096, 4096)
    warp: WarpOptions = field(default_factory=lambda: WarpOptions(kind="isotropic", size=224))
    finetune: FineTuneOptions = field(default_factory=FineTuneOptions)
    svm: SVMOptions = field(default_factory=SVMOptions)
    ridge: RidgeOptions = field(default_factory=RidgeOptions)
    score: float = 0.05
    nms: float = 0.3
    detections: int = 100

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")
        if not all(side > 0 for side in self.test_scales):
            raise UserError(f"model.test_scales = {list(self.test_scales)}: expected lengths above 0")


def classic(strides: Sequence[int]) -> SPPNetOptions:
    """The recipe of the paper and its code: five scales, and the code's λ and overlap for the box regressors."""
    return SPPNetOptions(
        regions=RegionOptions(overlap=1.0),
        test_scales=(480, 576, 688, 864, 1200),
        ridge=RidgeOptions(strength=4000.0, overlap=0.5),
    )


def modern(strides: Sequence[int]) -> SPPNetOptions:
    """One scale, which costs the paper one point of mAP and makes it several times faster (its table 9)."""
    return SPPNetOptions()


class SPPNet(ThreeStageDetector):
    """A classifier whose convolutions run once an image.

    Args:
        system: the name, such as "sppnet/zf".
        classes: names of the K classes.
        backbone: gives one map [B, C, H, W].
        options: see `SPPNetOptions`.
    """

    options: SPPNetOptions

    def __init__(self, system: str, classes: Sequence[str], backbone: Backbone, options: SPPNetOptions) -> None:
        if backbone.fpn is not None:
            raise UserError(f"{system} pools from one map, and '{backbone.name}' is a pyramid: name another form")
        levels = options.spp.levels or (backbone.head_size if _is_fc(backbone) else FINEST, 3, 2, 1)
        spp = SpatialPyramidPool(levels, backbone.strides[-1], options.spp)
        fc, width = fully_connected(backbone, spp, options.hidden)
        super().__init__(system, classes, options, pool5_channels=backbone.channels[-1] * spp.bins, channels=width)
        self.backbone = backbone
        self.spp = spp
        self.fc = fc

    @property
    def detection_size(self) -> tuple[int, int]:
        """The shorter and the longest side in pixels of the images that `detect` wants: of the largest scale."""
        short, long = self.options.image_size
        largest = max(self.options.test_scales, default=short)
        return largest, round(long * largest / short)

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """The softmax loss `loss_cls` of the fine-tuning, and `accuracy`.

        Args:
            batch: images with their proposals, of which regions are drawn; for "pretrain", crops [R, 3, S, S] as
                images with one box and one label each.
            generator: of the draw.
            part: "pretrain" tells the K classes apart on crops of objects; "finetune" is all there is else.
        """
        if part == "pretrain":
            boxes = batch.truth.boxes
            whole = Proposals(boxes, torch.ones_like(boxes[..., 0]), torch.ones_like(boxes[..., 0], dtype=torch.bool))
            _, fc7 = self.pooled_features([batch.images], batch.images, whole)
            return self.object_loss(fc7, batch.truth.labels[:, 0])
        regions, labels = self.drawn(batch, generator)
        _, fc7 = self.pooled_features([batch.images], batch.images, regions)
        return self.classification_loss(fc7, labels)

    def pooled_features(
        self, pyramid: Sequence[ImageBatch], images: ImageBatch, proposals: Proposals
    ) -> tuple[Tensor, Tensor]:
        """Pooled vectors [R, F] and fc7 [R, D] of the valid ones among proposals [B, N] of images seen at L scales."""
        maps = [self.backbone(scaled)[-1] for scaled in pyramid]  # L of [B, C, H, W]
        boxes, scales = choose_scales(proposals.boxes, proposals.valid, images.sizes, pyramid)
        pooled = self.spp(maps, boxes, scales)[proposals.valid]  # [R, F]
        return pooled, self.fc(pooled)

    def region_features(self, images: ImageBatch, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """Pooled vectors [R, F] and fc7 [R, D] of the valid ones among proposals [B, N], image by image, in float32.

        The images are as large as `detection_size` says, and seen at every one of the scales.
        """
        scales = self.options.test_scales
        pyramid = image_pyramid(images, scales) if scales else [images]
        pooled, fc7 = self.pooled_features(pyramid, images, proposals)
        return pooled.float(), fc7.float()


def fully_connected(backbone: Backbone, spp: SpatialPyramidPool, hidden: tuple[int, ...]) -> tuple[nn.Module, int]:
    """fc6 and fc7 behind pooled vectors [R, F], and the width of the result.

    A backbone's own move here, with an fc6 that reads the whole pyramid. Where its weights were loaded they stand for
    the finest level and the others begin at zero, so that fine-tuning starts from the published network. Convolutional
    heads are left out, since a convolution for each region is what SPP-net does away with.
    """
    head, backbone.head = backbone.head, None
    inputs = backbone.channels[-1] * spp.bins
    if not isinstance(head, FullyConnected):
        fc = SharedFC(inputs, hidden)
        return fc, fc.channels
    place, published = next((i, layer) for i, layer in enumerate(head) if isinstance(layer, nn.Linear))
    fc6 = nn.Linear(inputs, published.out_features)
    nn.init.normal_(fc6.weight, std=0.01)
    nn.init.zeros_(fc6.bias)
    if backbone.loaded is not None and spp.levels[0] == backbone.head_size:
        with torch.no_grad():
            fc6.weight.zero_()
            fc6.weight[:, : published.in_features] = published.weight
            fc6.bias.copy_(published.bias)
    head[place] = fc6
    return head, backbone.head_channels


def _is_fc(backbone: Backbone) -> bool:
    return isinstance(backbone.head, FullyConnected)
