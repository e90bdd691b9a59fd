"""Detectors and segmenters of Caffe: Fast and Faster R-CNN, R-FCN and FCN as their authors released them.

A .caffemodel has the weights of each layer by name; what else they were trained under stood in definitions and code
beside it. docs/importing-caffe.md has it row by row, with its sources. Letters: K classes, A anchors a place, k pooled
side of R-FCN, D width of the last layer. Caffe's first output is the background's, ours is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn import backbones
from rcnn.backbones import caffemodel
from rcnn.backbones.backbone import Normalise
from rcnn.backbones.vgg import CAFFE_LAYERS
from rcnn.backbones.weights import CAFFE_STATISTICS, FCN_STATISTICS
from rcnn.detectors import SYSTEMS, to_mapping
from rcnn.errors import UserError
from rcnn.interop import caffe_layers
from rcnn.interop.caffe_layers import Layers
from rcnn.interop.fitting import fitted, needed
from rcnn.interop.imported import Asked, Imported
from rcnn.interop.names import class_names
from rcnn.interop.torchvision import merged

# Our deltas are in these units; Caffe's final models say them plainly.
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Anchor sizes by A: VOC's models, and COCO's (py-faster-rcnn's and R-FCN's definitions, 'scales').
ANCHOR_SIZES = {9: (128.0, 256.0, 512.0), 12: (64.0, 128.0, 256.0, 512.0)}
# Their pooling upwards at padded edges gives a map one place wider than the image, and that place has anchors.
WIDE = ("zf", "caffenet")
# Of the released code rather than the paper: sigma 3 and one normaliser for both losses of the RPN; a region's right
# and bottom are its last pixels.
_RPN = {"loss_beta": 1.0 / 9, "box_weight": 1.0, "box_normaliser": "samples", "inclusive": True}
_BOX = {"inclusive": True, "min_size": 0.0}

# What a system makes of a file: the backbone, settings, and for each of our keys its source and tensor.
Source = Callable[[str], tuple[str, Tensor | None]]


def read(path: Path, asked: Asked) -> Imported:
    """The detector or segmenter of a .caffemodel, with the conventions it was trained under.

    Raises:
        UserError: the file is none of them, or does not fit what is asked for; as of `backbones.caffemodel.read`.
    """
    layers = Layers(path, caffemodel.read(path))
    if "rfcn_cls" in layers:
        kind, make = "rfcn", _rfcn
    elif "score_fr" in layers:
        kind, make = _fcn_name(layers), _fcn
    elif "cls_score" in layers and "bbox_pred" in layers:
        kind, make = ("faster-rcnn" if "rpn_cls_score" in layers else "fast-rcnn"), _fast
    else:
        raise UserError(_no_detector(path, layers))
    if asked.model and asked.model != kind:
        raise UserError(f"'{path}' has the layers of '{kind}', not of --model '{asked.model}'")
    return make(path, layers, kind, asked)


def _no_detector(path: Path, layers: Layers) -> str:
    """Why a file is refused; a classifier is told where it fits."""
    backbone = _backbone(layers)
    if backbone and not backbone.startswith("resnet"):
        return (
            f"'{path}' is a classifier and detects nothing: train on it with --weights '{path}' and the backbone"
            f" '{backbone}'"
        )
    first = next(iter(layers.blobs))
    return (
        f"'{path}' is no model that is known here, its first layer is '{first}'; expected Fast or Faster R-CNN, R-FCN"
        " or FCN"
    )


def _backbone(layers: Layers) -> str:
    """The backbone that the convolutions are of, by their shapes; "" for none."""
    if "conv1_1" in layers:
        return "vgg16"
    first, third = (layers.shape(name) for name in ("conv1", "conv3"))
    known: dict[tuple[tuple[int, ...], ...], str] = {
        ((96, 3, 7, 7), (384, 256, 3, 3)): "zf",
        ((96, 3, 7, 7), (512, 256, 3, 3)): "vgg-m",
        ((96, 3, 11, 11), (384, 256, 3, 3)): "caffenet",
    }
    if "res4b_branch2a" in layers or "res4b1_branch2a" in layers:
        return "resnet50-c5" if "res4f_branch2a" in layers else "resnet101-c5" if "res4b22_branch2a" in layers else ""
    return known.get((first, third), "")


def _fast(path: Path, layers: Layers, kind: str, asked: Asked) -> Imported:
    """Fast R-CNN, and Faster R-CNN trained end to end or by alternation: their final files are alike."""
    backbone = _backbone(layers)
    if backbone in ("", "resnet50-c5", "resnet101-c5"):
        raise UserError(f"'{path}' has another backbone than VGG16, ZF, VGG_CNN_M_1024 or CaffeNet")
    classes, notes = class_names(path, layers.rows("cls_score") - 1, asked)
    settings: dict[str, Any] = {
        "backbone": {"frozen_stages": backbones.entry(backbone).frozen_stages, "norm": "none"},
        "box": _BOX,
    }
    if kind == "faster-rcnn":
        settings = merged(settings, _proposing(path, layers), {"anchors": {"padding": backbone in WIDE}})
    else:
        notes = [*notes, "regions came from Selective Search in MATLAB; ours finds others, and as many"]

    def source(key: str) -> tuple[str, Tensor | None]:
        name, _, part = key.rpartition(".")
        if name.startswith("rpn.head."):
            return caffe_layers.proposing(layers, name, part)
        if name == "box_head.cls_score":
            return layers.last("cls_score", part)
        if name == "box_head.bbox_pred":
            value = layers.named("bbox_pred", part)
            return f"bbox_pred.{part}", None if value is None else _in_our_units(value, 4)[4:]
        return layers.plain(name, part, _plain_names(backbone))

    return _imported(path, layers, f"{kind}/{backbone}", classes, settings, source, notes)


def _in_our_units(value: Tensor, each: int) -> Tensor:
    """Weights or bias [4 · N · …, …] of deltas that are said plainly, each coordinate `each` / 4 outputs in a row."""
    if len(value) % each:
        return value  # whose shape will be refused
    factor = torch.tensor(WEIGHTS).repeat_interleave(each // 4).repeat(len(value) // each)
    return value * factor.view(-1, *[1] * (value.ndim - 1))


def _plain_names(backbone: str) -> dict[str, str]:
    """Our layers of the nets without branches → Caffe's, where they are not called the same."""
    if not backbone.startswith("vgg16"):
        return {}
    return {place.partition(".")[2] if "feat" in place else f"head.{place[-1]}": n for n, place in CAFFE_LAYERS.items()}


def _proposing(path: Path, layers: Layers) -> dict[str, Any]:
    """Settings of the region proposal network and its anchors."""
    per_place = layers.rows("rpn_cls_score") // 2
    if per_place not in ANCHOR_SIZES:
        known = " or ".join(str(count) for count in ANCHOR_SIZES)
        raise UserError(f"'{path}' has {per_place} anchors a place, whose sizes are in no file; expected {known}")
    anchors = {"sizes": (ANCHOR_SIZES[per_place],), "rounding": "caffe"}
    return {"anchors": anchors, "rpn": _RPN | {"channels": layers.rows(caffe_layers.proposing_conv(layers))}}


def _rfcn(path: Path, layers: Layers, kind: str, asked: Asked) -> Imported:
    """R-FCN on ResNet-50 or 101."""
    backbone = _backbone(layers)
    if not backbone.startswith("resnet"):
        raise UserError(f"'{path}' has another backbone than ResNet-50 or 101")
    bins, slots = _bins(path, layers)
    classes, notes = class_names(path, layers.rows("rfcn_cls") // bins - 1, asked)
    eps = 1e-5 if asked.bn_eps is None else asked.bn_eps
    settings = _proposing(path, layers) | {
        "backbone": {"norm": "frozen", "frozen_stages": 2, "eps": eps, "stride_on": "1x1", "stem_pool": "ceil"},
        "pool": {"size": math.isqrt(bins)},
        "box": _BOX
        | {
            "regression": "class-agnostic-bg" if slots == 2 else "class-agnostic",
            "channels": layers.rows("conv_new_1"),
        },
    }

    def source(key: str) -> tuple[str, Tensor | None]:
        name, _, part = key.rpartition(".")
        if name.startswith("rpn.head."):
            return caffe_layers.proposing(layers, name, part)
        if name == "box_head.reduce":
            return f"conv_new_1.{part}", layers.named("conv_new_1", part)
        if name == "box_head.cls_maps":
            value = layers.named("rfcn_cls", part)
            return f"rfcn_cls.{part}", None if value is None else caffe_layers.bin_by_bin(value.roll(-bins, 0), bins)
        if name == "box_head.bbox_maps":
            value = layers.named("rfcn_bbox", part)
            scaled = None if value is None else caffe_layers.bin_by_bin(_in_our_units(value, 4 * bins), bins)
            return f"rfcn_bbox.{part}", scaled
        return caffe_layers.residual(layers, name, part)

    return _imported(path, layers, f"rfcn/{backbone}", classes, settings, source, notes)


def _bins(path: Path, layers: Layers) -> tuple[int, int]:
    """k² of the position-sensitive maps, and how many boxes they vote for: 2 with the background's, or 1."""
    outputs, scores = layers.rows("rfcn_bbox"), layers.rows("rfcn_cls")
    for slots in (2, 1):
        bins = outputs // (4 * slots)
        if bins and outputs == 4 * slots * bins and math.isqrt(bins) ** 2 == bins and scores % bins == 0:
            return bins, slots
    raise UserError(f"'{path}' has {outputs} box maps and {scores} score maps; expected 8k² or 4k², and k²(K + 1)")


def _fcn_name(layers: Layers) -> str:
    return "fcn-8s" if "score_pool3" in layers else "fcn-16s" if "score_pool4" in layers else "fcn-32s"


def _fcn(path: Path, layers: Layers, kind: str, asked: Asked) -> Imported:
    """FCN-32s, 16s and 8s on VGG16."""
    if "conv1_1" not in layers:
        raise UserError(f"'{path}' has another backbone than VGG16")
    classes, notes = class_names(path, layers.rows("score_fr") - 1, asked)
    strides = {"fcn-32s": (32,), "fcn-16s": (32, 16), "fcn-8s": (32, 16, 8)}[kind]
    ups = {stride: caffe_layers.upsampling(layers, strides, stride) for stride in strides[1:]}
    learned = [up is not None and not caffe_layers.bilinear(up, 2) for up in ups.values()]
    caffe_layers.check_pixels(path, layers, strides[-1])
    scales = tuple(caffe_layers.constant(layers, name) for name in ("scale_pool4", "scale_pool3"))
    settings: dict[str, Any] = {
        "backbone": {"norm": "none", "frozen_stages": 0},
        "head": {"skip_scales": scales, "upsampling": "learned" if any(learned) else "fixed"},
    }
    scores = {"32": "score_fr", "16": "score_pool4", "8": "score_pool3"}

    def source(key: str) -> tuple[str, Tensor | None]:
        name, _, part = key.rpartition(".")
        if name.startswith("head.levels."):
            stride, what = name.removeprefix("head.levels.").split(".")
            if what == "up":
                return f"up-sampling to stride {stride}", ups[int(stride)]
            return layers.last(scores[stride], part)
        return layers.plain(name, part, _plain_names("vgg16"))

    return _imported(path, layers, f"{kind}/vgg16-skip", classes, settings, source, notes)


def _imported(
    path: Path,
    layers: Layers,
    system: str,
    classes: tuple[str, ...],
    changes: Mapping[str, Any],
    source: Source,
    notes: list[str],
) -> Imported:
    """The model that `source` fills, on the classic recipe with these changes."""
    preset = SYSTEMS[system.partition("/")[0]].presets["classic"]
    settings = merged(to_mapping(preset((16,))), changes)
    statistics = Normalise(FCN_STATISTICS if system.startswith("fcn") else CAFFE_STATISTICS)
    state = statistics.state_dict(prefix="backbone.normalise.")
    for key, shape in needed(system, classes, settings).items():
        if key not in state:
            name, value = source(key)
            if value is not None and value.numel() == shape.numel() and caffe_layers.alike(value.shape, shape):
                value = value.view(shape)
            state[key] = fitted(path, name, value, shape)
    left = layers.unread()
    if left:
        notes = [*notes, f"{len(left)} layers of the file have no place and were left out, first '{left[0]}'"]
    return Imported(system, classes, settings, state, notes)
