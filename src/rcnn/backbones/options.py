"""What a system's settings say of its backbone; every system of the family has these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BackboneOptions:
    """How the backbone is built.

    Attributes:
        norm: "frozen" batch norm for pretrained weights; "group" or "batch" train from a random start; "none" for the
            classic nets without normalisation; "auto" chooses by whether weights are given.
        frozen_stages: the first so many stages keep their weights; None for what the published systems did.
        levels: strides of a pyramid's maps, such as (4, 8, 16, 32, 64), or "torchvision" for those of its detectors;
            None for the backbone's usual.
        channels: width of a pyramid's maps.
        eps: of batch norm; None for the published classifier's.
        convention: how the weights file was trained, where there are several: "torchvision" or "caffe" (BGR 0–255);
            None for the backbone's usual.
        stride_on: which convolution of a ResNet's bottleneck strides: "3x3", torchvision's, or "1x1", that of the
            paper's own weights and of what was trained from them (Detectron2's models, R-FCN's).
        stem_pool: how a ResNet's first pooling meets the edge: "padded" by a pixel, or "ceil", Caffe's: by none, and a
            window that begins inside the map counts.
    """

    norm: Literal["auto", "frozen", "group", "batch", "none"] = "auto"
    frozen_stages: int | None = None
    levels: tuple[int, ...] | Literal["torchvision"] | None = None
    channels: int = 256
    eps: float | None = None
    convention: str | None = None
    stride_on: Literal["3x3", "1x1"] = "3x3"
    stem_pool: Literal["padded", "ceil"] = "padded"
