"""The layers of a .caffemodel as the tensors of ours: orders of channels, batch norm in two layers, up-sampling.

Letters: C outputs, background first in Caffe; A anchors a place; k² bins; s side of a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rcnn.backbones.caffemodel import Blob
from rcnn.errors import UserError
from rcnn.heads.segmentation import bilinear_kernel
from rcnn.kernels.ps_roi_pool import from_caffe_order

PARTS = {"weight": 0, "bias": 1}


@dataclass
class Layers:
    """The blobs of each layer of the file `path`, and which of them were asked for."""

    path: Path
    blobs: Mapping[str, list[Blob]]
    asked: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.blobs

    def unread(self) -> list[str]:
        """The layers that nothing asked for."""
        return [name for name in self.blobs if name not in self.asked]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a layer's weight; () if there is no such layer."""
        return self.blobs[name][0].shape if name in self.blobs else ()

    def rows(self, name: str) -> int:
        """The outputs of a layer.

        Raises:
            UserError: there is no such layer, or it has fewer than two.
        """
        shape = self.shape(name)
        if not shape or shape[0] < 2:
            raise UserError(f"'{self.path}' lacks the layer '{name}', or its weights: it is no whole model")
        return shape[0]

    def blob(self, name: str, index: int) -> Tensor | None:
        """One blob of a layer; None if there is no such."""
        self.asked.add(name)
        blobs = self.blobs.get(name, [])
        return blobs[index].tensor() if index < len(blobs) else None

    def named(self, name: str, part: str) -> Tensor | None:
        """The "weight" [K, C, …] or "bias" [K] of a layer; None if it has none."""
        return self.blob(name, PARTS[part]) if part in PARTS else None

    def last(self, name: str, part: str) -> tuple[str, Tensor | None]:
        """Of a layer with an output for each class, [K + 1, …], the background's moved to the end."""
        value = self.named(name, part)
        return f"{name}.{part}", None if value is None else value.roll(-1, 0)

    def plain(self, name: str, part: str, names: Mapping[str, str]) -> tuple[str, Tensor | None]:
        """Of our convolution or fully connected layer `name`, under its own last name or that in `names`."""
        place = re.sub(r"^(backbone\.body\.|box_head\.trunk\.|backbone\.head\.)", "", name)
        head = place if name.startswith("backbone.body.") else f"head.{place}"
        layer = names.get(head, place)
        return f"{layer}.{part}", self.named(layer, part)


def alike(found: torch.Size, wanted: torch.Size) -> bool:
    """Whether two shapes are the same but for sides of 1."""
    return [side for side in found if side != 1] == [side for side in wanted if side != 1]


def proposing_conv(layers: Layers) -> str:
    """The 3×3 convolution of the RPN, which two definitions call differently."""
    return "rpn_conv1" if "rpn_conv1" in layers else "rpn_conv/3x3"


def proposing(layers: Layers, name: str, part: str) -> tuple[str, Tensor | None]:
    """The RPN's layers, whose orders are ours: all "not object" channels first, ratios outermost."""
    layer = {"conv": proposing_conv(layers), "cls_logits": "rpn_cls_score", "bbox_pred": "rpn_bbox_pred"}
    theirs = layer[name.removeprefix("rpn.head.")]
    return f"{theirs}.{part}", layers.named(theirs, part)


def bin_by_bin(value: Tensor, bins: int) -> Tensor:
    """Position-sensitive maps [C · k², …], class by class, as ours: bin by bin."""
    return from_caffe_order(value, round(bins**0.5)) if len(value) % bins == 0 else value


def residual(layers: Layers, name: str, part: str) -> tuple[str, Tensor | None]:
    """A ResNet's convolution or batch norm; a bias before batch norm is taken off its mean."""
    place = name.removeprefix("backbone.body.")
    if place in ("conv1", "bn1"):
        conv, norm, scale = "conv1", "bn_conv1", "scale_conv1"
    else:
        stage, block, what = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", place).groups()  # type: ignore[union-attr]
        branch = "1" if what.startswith("downsample") else f"2{' abc'[int(what[-1])]}"
        start = f"{int(stage) + 1}{_block(layers, int(stage) + 1, int(block))}_branch{branch}"
        conv, norm, scale = f"res{start}", f"bn{start}", f"scale{start}"
    if place.endswith(("conv1", "conv2", "conv3", "downsample.0")):
        return f"{conv}.{part}", layers.named(conv, part)
    if part in PARTS:
        return f"{scale}.{part}", layers.named(scale, part)
    sums, count = layers.blob(norm, 0 if part == "running_mean" else 1), layers.blob(norm, 2)
    if sums is None or count is None or count.numel() != 1:
        return f"{norm}.{part}", None
    value = sums / count.flatten() if float(count) else torch.zeros_like(sums)  # Caffe keeps running sums
    bias = layers.blob(conv, 1)
    if part == "running_mean" and bias is not None and bias.shape == value.shape:
        value = value - bias
    return f"{norm}.{part}", value


def _block(layers: Layers, stage: int, block: int) -> str:
    """What a block is called: by letters, or in ResNet-101's long stages a, b1, b2, …"""
    letter = chr(ord("a") + block)
    return letter if block == 0 or f"res{stage}{letter}_branch2a" in layers else f"b{block}"


def upsampling(layers: Layers, strides: tuple[int, ...], stride: int) -> Tensor | None:
    """The kernels [C, 1, s, s] that bring scores to the map of `stride`, background last; None if the file has none.

    Raises:
        UserError: they mix classes, which ours cannot.
    """
    name = {16: "upscore2", 8: "upscore_pool4"}[stride]
    return _kernels(layers, name)


def check_pixels(path: Path, layers: Layers, stride: int) -> None:
    """Refuses a last up-sampling, from `stride` to the pixels, that is not bilinear."""
    name = {32: "upscore", 16: "upscore16", 8: "upscore8"}[stride]
    kernels = _kernels(layers, name)
    if kernels is not None and not bilinear(kernels, stride):
        raise UserError(f"'{path}' has a learned '{name}'; expected a bilinear one, as published")


def _kernels(layers: Layers, name: str) -> Tensor | None:
    weight = layers.blob(name, 0)
    if weight is None:
        return None
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise UserError(f"'{layers.path}' has '{name}' of shape {list(weight.shape)}, expected square kernels")
    if weight.shape[1] != 1:
        apart = weight.clone()
        apart.diagonal().zero_()
        if weight.shape[0] != weight.shape[1] or bool(apart.any()):
            raise UserError(f"'{layers.path}' has an up-sampling '{name}' that mixes classes; expected one a class")
        weight = weight.diagonal().permute(2, 0, 1)[:, None]
    return weight.roll(-1, 0)


def bilinear(kernels: Tensor, factor: int) -> bool:
    """Whether kernels [C, 1, s, s] interpolate by `factor`."""
    return torch.allclose(kernels, bilinear_kernel(factor, kernels.shape[-1]).expand_as(kernels), atol=1e-5)


def constant(layers: Layers, name: str) -> float:
    """What a Scale layer multiplies all by; 1 if there is none.

    Raises:
        UserError: it is not one number.
    """
    value = layers.blob(name, 0)
    if value is None:
        return 1.0
    if value.numel() == 0 or bool((value != value.flatten()[0]).any()):
        raise UserError(f"'{layers.path}' has a layer '{name}' of several numbers; expected one")
    return float(value.flatten()[0])
