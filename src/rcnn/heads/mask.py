"""The mask head: which cells of a grid over a RoI its object covers (He et al. 2017, section 3 and figure 4).

A small fully convolutional network says it for every class apart, each by a sigmoid of its own, so that classes do not
compete: which of them it is, the box head says. Letters: B images, S sampled RoIs, P of them that may be objects, R
RoIs, C channels, K classes, D detections, M cells along a mask's side (twice the pooled side).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn import targets
from rcnn.data.collate import capacity
from rcnn.errors import UserError
from rcnn.heads.convs import HeadNorm, conv_layers
from rcnn.heads.roi_head import RoISamples
from rcnn.kernels.paste import PasteRule
from rcnn.structures import DetectionBatch, Masks

# RoIs of an image whose masks are made at once at test: crowds take longer, not more memory.
ROIS_AT_ONCE = 100

# Boxes [B, N, 4] and whether each is real [B, N] → logits [B, N, K or 1, M, M], read from maps made before.
MaskLook = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MaskHeadOptions:
    """Settings of the mask branch; the defaults are those of the paper.

    Attributes:
        size: pooled side; the mask's is twice that. None for 14, or what the backbone's own layers want.
        convs: widths of the 3×3 convolutions; unused where the backbone brings its own layers (C4's res5).
        norm: of those: "none", "frozen" batch norm for weights that come with its statistics, or "group".
        deconv: width of the transposed convolution.
        classes: a mask for each class, or one for all ("class-agnostic", table 2 of the paper: nearly as good).
        background_slot: whether masks for each class come with one of the background, the last. Nothing reads or trains
            it; weights that come with one (torchvision) stay whole.
        target: what a cell should say: "binary", whether at least half of it is covered, "soft", how much, or
            "torchvision", what RoIAlign reads of the mask resized to the image in the network.
        weight: of the mask loss.
        threshold: from which probability on a pixel belongs to the object.
        paste: how masks come back into the image: "exact", or "torchvision", whose boxes end at whole pixels.
    """

    size: int | None = None
    convs: tuple[int, ...] = (256, 256, 256, 256)
    norm: HeadNorm = "none"
    deconv: int = 256
    classes: Literal["per-class", "class-agnostic"] = "per-class"
    background_slot: bool = False
    target: Literal["binary", "soft", "torchvision"] = "binary"
    weight: float = 1.0
    threshold: float = 0.5
    paste: PasteRule = "exact"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"model.mask.threshold = {self.threshold}: expected a probability above 0")


class MaskHead(nn.Module):
    """Pooled features [R, C, P, P] → mask logits [R, K or 1, M, M]; knows its loss and the masks of detections.

    Args:
        channels: C.
        classes: K.
        options: see `MaskHeadOptions`.
        most: P, the most RoIs of an image that may be objects.
        own_layers: whether the 3×3 convolutions are this head's; else what comes in has been through the backbone's.
    """

    def __init__(
        self, channels: int, classes: int, options: MaskHeadOptions, *, most: int, own_layers: bool = True
    ) -> None:
        super().__init__()
        self.options, self.most = options, most
        convs = options.convs if own_layers else ()
        deconv = nn.ConvTranspose2d(convs[-1] if convs else channels, options.deconv, 2, stride=2)
        nn.init.kaiming_normal_(deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(deconv.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*conv_layers(channels, convs, options.norm), deconv, nn.ReLU(inplace=True))
        per_class = options.classes == "per-class"
        self.mask_logits = nn.Conv2d(options.deconv, classes + options.background_slot if per_class else 1, 1)
        nn.init.normal_(self.mask_logits.weight, std=0.001)
        nn.init.zeros_(self.mask_logits.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features [R, C, P, P] → logits [R, K or 1, M, M] in float32."""
        hidden = self.layers(features).float()
        with torch.autocast(hidden.device.type, enabled=False):
            return self.mask_logits(hidden)

    def losses(self, look: MaskLook, samples: RoISamples, masks: Masks) -> dict[str, Tensor]:
        """`loss_mask`: binary cross-entropy on the map of the true class alone, its mean over the positive ones of the
        RoIs [B, S].

        RoIs whose object has no mask do not count.
        """
        rank, index = samples.positive.float().topk(min(self.most, samples.positive.shape[1]), dim=1)  # [B, P]
        real = rank > 0
        if real.device.type == "cpu" and not torch.compiler.is_compiling():
            most = capacity(int(real.sum(1).max()))  # most images have few objects; on a GPU asking would wait for it
            real, index = real[:, :most], index[:, :most]
        boxes, matched = targets.take(samples.boxes, index), samples.matched.gather(1, index)
        real = real & (masks.start.gather(1, torch.where(real, matched, 0)) >= 0)
        logits = self._of_class(look(boxes, real), samples.labels.gather(1, index))  # [B, P, M, M]
        with torch.no_grad():
            cut = targets.cut_aligned if self.options.target == "torchvision" else targets.cut
            goals = cut(masks, boxes, torch.where(real, matched, 0), logits.shape[-1])
            if self.options.target == "binary":
                goals = (goals >= 0.5).float()
        each = F.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean((2, 3))  # [B, P]
        return {"loss_mask": self.options.weight * (each * real).sum() / real.sum().clamp(min=1)}

    @torch.no_grad()
    def predict(self, look: MaskLook, found: DetectionBatch) -> Tensor:
        """How likely each cell over a detection is its object: [B, D, M, M] float32 in [0, 1], 0 where padded."""
        real = found.valid
        count = real.shape[1]
        if real.device.type == "cpu" and not torch.compiler.is_compiling():
            count = max(int(real.sum(1).max()), 1)  # detections come first, padding last
        parts = []
        for start in range(0, count, ROIS_AT_ONCE):
            some = slice(start, min(start + ROIS_AT_ONCE, count))
            logits = self._of_class(look(found.boxes[:, some], real[:, some]), found.labels[:, some])
            parts.append(logits.sigmoid() * real[:, some, None, None])
        return F.pad(torch.cat(parts, 1), (0, 0, 0, 0, 0, real.shape[1] - count))

    def _of_class(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of logits [B, N, K or 1, M, M] each RoI's map of its label [B, N]: [B, N, M, M]."""
        slot = labels.clamp(min=0, max=logits.shape[2] - 1)[..., None, None, None]
        return logits.gather(2, slot.expand(-1, -1, 1, *logits.shape[3:])).squeeze(2)
