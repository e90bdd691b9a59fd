"""The box head: softmax over K+1 classes and box regression from pooled RoI features (Girshick 2015, sections 2.1–2.3).

Letters: B images, N RoIs an image, R = B·N, K classes (background is the last logit, index K), C channels, P pooled
side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcnn.boxes import precise
from rcnn.heads import low_rank
from rcnn.heads.convs import HeadNorm
from rcnn.heads.roi_head import BoxOutput, RoIHead, RoIHeadOptions


@dataclass(frozen=True)
class BoxHeadOptions(RoIHeadOptions):
    """Settings of the second stage of Fast and Faster R-CNN: those of every `RoIHeadOptions`, and of its layers.

    Attributes:
        hidden: widths of the shared fully connected layers; unused where the backbone brings its own (fc6, fc7).
        convs: widths of 3×3 convolutions before them; unused where the backbone brings its own layers.
        norm: of those convolutions: "none", "frozen" batch norm for weights that come with its statistics, or "group".
        background_slot: whether the deltas of regression per class have a slot for the background as well, the last.
            Nothing reads or trains it; weights that come with one (py-faster-rcnn, torchvision) stay whole.
        ranks: ranks of the fully connected layers in order, each made of two by truncated SVD, 0 for one layer; set by
            `rcnn compress`. A model that is created with ranks has random layers there.
    """

    hidden: tuple[int, ...] = (1024, 1024)
    convs: tuple[int, ...] = ()
    norm: HeadNorm = "none"
    background_slot: bool = False
    ranks: tuple[int, ...] = ()


class SharedFC(nn.Sequential):
    """Fully connected layers with ReLU on flattened RoI features: [R, C, P, P] → [R, hidden[-1]].

    They start as He et al. 2015 (section 2.2) derive for ReLU: torch's own start shrinks what passes through a layer
    to 0.4 times, and training from scratch then stands still for hundreds of steps.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        layers: list[nn.Module] = [nn.Flatten(1)]
        for width in hidden:
            layer = nn.Linear(inputs, width)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU(inplace=True)]
            inputs = width
        super().__init__(*layers)
        self.channels = inputs


class BoxHead(RoIHead):
    """RoI features → class scores and better boxes.

    Args:
        trunk: RoI features [R, C, P, P] → [R, channels]; `SharedFC` or the layers that a backbone brings.
        channels: width of the trunk's result.
        classes: K.
        options: see `BoxHeadOptions`.
    """

    options: BoxHeadOptions  # type: ignore[override]

    def __init__(self, trunk: nn.Module, channels: int, classes: int, options: BoxHeadOptions) -> None:
        super().__init__(classes, options)
        self.trunk, self.channels = trunk, channels
        low_rank.split(trunk, options.ranks)
        self.cls_score = nn.Linear(channels, classes + 1)
        slots = {"per-class": classes + options.background_slot, "class-agnostic": 1, "none": 0}[options.regression]
        self.bbox_pred = nn.Linear(channels, 4 * slots) if slots else None
        for layer, std in zip((self.cls_score, self.bbox_pred), options.init_std, strict=True):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> BoxOutput:
        """Pooled features [B, N, C, P, P] → class logits and deltas of the B × N RoIs."""
        return self.predict(self.describe(features))

    def describe(self, features: Tensor) -> Tensor:
        """Pooled features [B, N, C, P, P] → what the trunk makes of them (fc7), [B, N, channels] in float32."""
        return precise(self.trunk(features.flatten(0, 1))).unflatten(0, features.shape[:2])

    def predict(self, hidden: Tensor) -> BoxOutput:
        """The trunk's features [B, N, channels] → class logits and deltas."""
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits of 8 bits would tie, and boxes jump
            logits = self.cls_score(hidden)  # [B, N, K+1]
            if self.bbox_pred is None:
                return BoxOutput(logits, logits.new_zeros(*logits.shape[:2], 1, 4))
            deltas = self.bbox_pred(hidden).unflatten(2, (-1, 4))[:, :, : self.classes]  # [B, N, K or 1, 4]
        return BoxOutput(logits, deltas)
