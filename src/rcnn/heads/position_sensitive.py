"""The second stage without layers for each region: maps of position-sensitive scores, pooled bin by bin, that vote
(Dai et al. 2016, section 2).

Letters: B images, N RoIs, K classes (background is the last score, index K), C channels, k pooled side, H W height and
width of a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.boxes import precise
from rcnn.heads.roi_head import BoxOutput, RoIHead, RoIHeadOptions
from rcnn.pooling import PSRoIPool, vote


@dataclass(frozen=True)
class PSHeadOptions(RoIHeadOptions):
    """Settings of R-FCN's second stage: those of every `RoIHeadOptions`, and of its maps.

    Attributes:
        regression: "class-agnostic" (4k² maps, the paper), "class-agnostic-bg" (8k²: the released models hold a second
            set, for background, that nothing trains or reads), "per-class" (4Kk²) or "none".
        channels: width of the 1×1 convolution before the maps; 0 leaves it out.
    """

    regression: Literal["class-agnostic", "class-agnostic-bg", "per-class", "none"] = "class-agnostic"  # type: ignore[bad-override]
    init_std: tuple[float, float] = (0.01, 0.01)
    channels: int = 1024


@dataclass
class PSMaps:
    """What the convolutions make of an image batch: `scores` [B, k²·(K+1), H, W] and `deltas` [B, k²·4·slots, H, W].

    Channels lie bin by bin, as `kernels.ps_roi_pool` wants them: that of class c in bin (i, j) is (i·k + j)·(K+1) + c.
    `deltas` is None without regression.
    """

    scores: Tensor
    deltas: Tensor | None


class PositionSensitiveHead(RoIHead):
    """Shared features → position-sensitive maps → votes of the bins of each RoI.

    Args:
        channels: C of the shared features.
        classes: K.
        pool: how the bins read their maps.
        options: see `PSHeadOptions`.
    """

    def __init__(self, channels: int, classes: int, pool: PSRoIPool, options: PSHeadOptions) -> None:
        super().__init__(classes, options)
        bins, width = pool.options.size**2, options.channels or channels
        slots = {"class-agnostic": 1, "class-agnostic-bg": 2, "per-class": classes, "none": 0}[options.regression]
        self.pool = pool
        self.reduce = nn.Conv2d(channels, width, 1) if options.channels else None
        self.cls_maps = nn.Conv2d(width, bins * (classes + 1), 1)
        self.bbox_maps = nn.Conv2d(width, bins * 4 * slots, 1) if slots else None
        if self.reduce is not None:  # as the other layers before a ReLU that train from a random start
            nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        for layer, std in zip((self.cls_maps, self.bbox_maps), options.init_std, strict=True):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
        for layer in (self.reduce, self.cls_maps, self.bbox_maps):
            if layer is not None and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def maps(self, feature: Tensor) -> PSMaps:
        """The maps of shared features [B, C, H, W], made once an image however many RoIs there are; float32."""
        if self.reduce is not None:
            feature = F.relu(self.reduce(feature))  # [B, 1024, H, W]
        feature = precise(feature)
        with torch.autocast(feature.device.type, enabled=False):  # bf16 logits of 8 bits would tie, and boxes jump
            return PSMaps(self.cls_maps(feature), None if self.bbox_maps is None else self.bbox_maps(feature))

    def forward(self, maps: PSMaps, boxes: Tensor, valid: Tensor) -> BoxOutput:
        """Class logits and deltas of boxes [B, N, 4] where valid [B, N]."""
        logits = vote(self.pool(maps.scores, boxes, valid))  # [B, N, K+1]
        if maps.deltas is None:
            return BoxOutput(logits, logits.new_zeros(*logits.shape[:2], 1, 4))
        deltas = vote(self.pool(maps.deltas, boxes, valid)).unflatten(2, (-1, 4))  # [B, N, slots, 4]
        if self.options.regression == "class-agnostic-bg":
            deltas = deltas[:, :, 1:]  # the first is background's
        return BoxOutput(logits, deltas)
