"""FCN (Long, Shelhamer and Darrell 2015): a classifier whose layers are all convolutions says the class of every pixel.

    image → backbone ─┬→ map of stride 32 (VGG16: fc6 and fc7 as convolutions) → score ─→ ×2 ─┐         FCN-32s: ×32
                      ├→ map of stride 16 → score ────────────────────────────────────────── + ─→ ×2 ─┐ FCN-16s: ×16
                      └→ map of stride 8 → score ─────────────────────────────────────────────────── + ─→ FCN-8s: ×8

Letters: B images, C = K + 1 scores, background last, H W padded height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rcnn.backbones import Backbone, BackboneOptions, names
from rcnn.backbones.vgg import FullyConnected, convolutional
from rcnn.data.semantic import VOID
from rcnn.detectors.segmenter import Segmenter
from rcnn.errors import RCNNError, UserError
from rcnn.heads.segmentation import SegmentationHead, SegmentationHeadOptions
from rcnn.structures import Batch, ImageBatch

STRIDES = (8, 16, 32)
# Pixels by which the published networks pad the image, so that one of any size gets scores to its edge.
BORDER = 100
# The part of the losses that takes the place of a classifier's training.
PRETRAIN = "pretrain"


@dataclass(frozen=True)
class FCNOptions:
    """Every setting of the system; the defaults are the modern recipe.

    Attributes:
        image_size: images are resized so that the shorter side has the first length in pixels, unless the longer side
            would exceed the second. VOC's photographs stay as they are at (500, 500).
        padding: "published" pads the image of VGG16 by 100 pixels and fc6 by none, and crops, as FCN did; "same" pads
            each convolution by half its window. Only VGG16 was published so; others are "same" either way.
        backbone: see `BackboneOptions`.
        head: see `SegmentationHeadOptions`.
    """

    image_size: tuple[int, int] = (500, 500)
    padding: Literal["published", "same"] = "same"
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    head: SegmentationHeadOptions = field(default_factory=SegmentationHeadOptions)

    def __post_init__(self) -> None:
        short, long = self.image_size
        if not 0 < short <= long:
            raise UserError(f"model.image_size = {[short, long]}: expected the shorter side first, both above 0")


def modern(strides: Sequence[int]) -> FCNOptions:
    """Today's recipe: images and convolutions padded evenly, a loss whose size does not hang on the image's."""
    return FCNOptions()


def classic(strides: Sequence[int]) -> FCNOptions:
    """The recipe of the papers and their code: padding by 100, fixed up-sampling, the loss summed over the pixels.

    Skips are scaled for training all at once; the staged scheme takes the scales back (`training.presets`).
    """
    head = SegmentationHeadOptions(upsampling="fixed", skip_scales=(0.01, 0.0001), loss="sum")
    return FCNOptions(padding="published", head=head)


class FCN(Segmenter):
    """Scores on the maps of a classifier, fused and up-sampled.

    Args:
        system: the name, such as "fcn-8s/vgg16-skip".
        classes: names of the K classes.
        backbone: gives maps [B, C, H, W] of strides 8, 16 and 32; its `head`, fc6 and fc7, becomes convolutions.
        options: see `FCNOptions`.
        finest: the stride of the finest map that is used: 32, 16 or 8.

    Raises:
        UserError: the backbone does not have these maps.
    """

    options: FCNOptions

    def __init__(
        self, system: str, classes: Sequence[str], backbone: Backbone, options: FCNOptions, *, finest: int
    ) -> None:
        super().__init__(system, classes, options)
        if backbone.strides != STRIDES:
            strides = ", ".join(map(str, backbone.strides))
            raise UserError(
                f"'{backbone.name}' has maps of strides {strides} where {system} needs 8, 16 and 32;"
                f" expected one of {', '.join(names('*-skip'))}"
            )
        self.used = slice(STRIDES.index(finest), None)
        # Of each part of the losses, the stride of the finest map that it uses.
        self.finest = {PRETRAIN: STRIDES[-1], **{f"{stride}s": stride for stride in reversed(STRIDES[self.used])}}
        self.parts = tuple(self.finest)
        wide = options.padding == "published" and backbone.head is not None
        if wide:
            backbone.widen(BORDER)
        centres, channels = [*backbone.centres], [*backbone.channels]
        if isinstance(backbone.head, FullyConnected):
            size = backbone.head_size
            backbone.head = convolutional(backbone.head, channels[-1], size, 0 if wide else size // 2)
            channels[-1] = backbone.head_channels
            centres[-1] += STRIDES[-1] * (size - 1) / 2 if wide else 0
        self.backbone = backbone
        self.head = SegmentationHead(
            channels[self.used], STRIDES[self.used], centres[self.used], len(self.classes) + 1, options.head
        )

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """`loss_pixels`, of the label maps.

        Args:
            batch: images with their label maps.
            generator: unused; nothing is drawn.
            part: "32s" or "16s" is the loss of the network without its finer levels; "pretrain" is that of
                the coarsest scores on the objects' pixels alone, told apart as if there were no background.
        """
        labels = batch.truth.semantic
        if labels is None:
            raise RCNNError(f"{self.system} learns from label maps, and the batch has none")
        logits = self.head(self._maps(batch.images), batch.images.pixels.shape[-2:], self.finest.get(part))
        if part == PRETRAIN:
            background = logits.shape[1] - 1
            logits, labels = logits[:, :-1], torch.where(labels == background, VOID, labels)
        return {"loss_pixels": self.head.losses(logits, labels)}

    def scores(self, images: ImageBatch) -> Tensor:
        """Scores float32 [B, C, H, W] of each pixel of a padded batch."""
        return self.head(self._maps(images), images.pixels.shape[-2:])

    def _maps(self, images: ImageBatch) -> list[Tensor]:
        """The maps [B, C, h, w] that are scored, finest first."""
        maps = self.backbone(images)
        if self.backbone.head is not None:
            maps[-1] = self.backbone.head(maps[-1])
        return maps[self.used]
