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
    """

    norm: Literal["auto", "frozen", "group", "batch", "none"] = "auto"
    frozen_stages: int | None = None
    levels: tuple[int, ...] | Literal["torchvision"] | None = None
    channels: int = 256
    eps: float | None = None
    convention: str | None = None
