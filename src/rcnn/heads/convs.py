"""The 3×3 convolutions that a head runs on pooled regions before its last layers.

Letters: R RoIs, C channels, P pooled side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from rcnn.backbones.folding import fold_norms
from rcnn.backbones.norm import FrozenBatchNorm, groups

# Batch norm is not among them: its statistics would count the unused places of the R as RoIs.
HeadNorm = Literal["none", "frozen", "group"]


def conv_layers(channels: int, widths: Sequence[int], norm: HeadNorm = "none") -> nn.Sequential:
    """Convolutions with ReLU, [R, C, P, P] → [R, widths[-1], P, P].

    They start as He et al. 2015 derive for ReLU.

    Args:
        channels: C.
        widths: of the layers, in order.
        norm: between convolution and ReLU, the convolution then without a bias: "frozen" batch norm, for weights that
            come with its statistics, "group" norm, or "none".
    """
    layers: list[nn.Module] = []
    for width in widths:
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none")
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers.append(conv)
        if norm != "none":
            layers.append(FrozenBatchNorm(width) if norm == "frozen" else nn.GroupNorm(groups(width), width))
        layers.append(nn.ReLU(inplace=True))
        channels = width
    made = nn.Sequential(*layers)
    fold_norms(made)
    return made
