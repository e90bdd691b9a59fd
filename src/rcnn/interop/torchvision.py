"""Detectors of torchvision: its six constructors of Faster and Mask R-CNN as a table, and state dicts of theirs read.

A state dict tells the network by its keys; what else it was trained under is in no key: how images are resized, where
anchors lie, how regions are pooled. All of it is in `MODELS`, stated from torchvision's source
(torchvision/models/detection: faster_rcnn.py, mask_rcnn.py, transform.py, rpn.py, roi_heads.py, anchor_utils.py), and
docs/importing.md has it row by row. Letters: K classes; torchvision's output 0 is the background, ours is the last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn import backbones
from rcnn.backbones import weights
from rcnn.backbones.backbone import Normalise
from rcnn.detectors import create
from rcnn.errors import UserError, nearest
from rcnn.files import telling
from rcnn.interop.imported import Asked, Imported
from rcnn.interop.names import class_names

# Counters of batch norm: nothing reads them, and files with frozen statistics lack them.
COUNTER = "num_batches_tracked"
# What all its detectors share, where it differs from the modern preset.
_SHARED: dict[str, Any] = {
    "resize": "torchvision",
    "anchors": {"centre": 0.0, "rounding": "torchvision", "step": "torchvision", "padding": True},
    "pool": {"aligned": False},
    "rpn": {"nms_shift": True},
    "box": {"background_slot": True, "nms_shift": True},
}
_RESNET: dict[str, Any] = {"backbone": {"norm": "frozen", "frozen_stages": 2, "eps": 1e-5}}
_MOBILENET: dict[str, Any] = {
    "backbone": {"norm": "frozen", "frozen_stages": 3, "eps": 1e-5, "levels": "torchvision"},
    "anchors": {"sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),)},
    "rpn": {"min_score": 0.05},
}
_SECOND: dict[str, Any] = {
    "rpn": {"convs": 2},
    "box": {"convs": (256, 256, 256, 256), "norm": "frozen", "hidden": (1024,)},
}
_MASK: dict[str, Any] = {"mask": {"background_slot": True, "target": "torchvision", "paste": "torchvision"}}
_SMALL: dict[str, Any] = {"image_size": (320, 640), "rpn": {"pre_nms": (2000, 150), "post_nms": (2000, 150)}}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over each other, the last on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            result[key] = merged(result.get(key, {}), value) if isinstance(value, Mapping) else value
    return result


@dataclass(frozen=True)
class Published:
    """One of torchvision's constructors.

    Attributes:
        name: of the constructor.
        system: what it is called here.
        settings: what differs from the modern preset.
        names: the start of our keys → the start of its keys.
        rolled: those of our modules with an output, or four, for each class.
        released: how the SHA-256 of its released COCO weights begins, as their file name says.
        released_eps: of batch norm in the constructor once it has loaded those.
        earlier: the start of its keys → of those of the first releases, which it still reads.
    """

    name: str
    system: str
    settings: Mapping[str, Any]
    names: Mapping[str, str]
    rolled: tuple[str, ...]
    released: str
    released_eps: float
    earlier: Mapping[str, str]

    def theirs(self, key: str) -> str:
        """Our state dict key under its name in the file; "" for those that no file has."""
        start = next((start for start in self.names if key.startswith(start)), None)
        return "" if start is None else self.names[start] + key.removeprefix(start)


def _published(name: str, released: str, *layers: Mapping[str, Any], eps: float = 1e-5) -> Published:
    """The entry of a constructor with these settings over those that all share."""
    second, mask = name.endswith("_v2"), name.startswith("mask")
    backbone = "mobilenetv3-fpn" if "mobilenet" in name else "resnet50-fpn-v2" if second else "resnet50-fpn"
    settings = merged(_SHARED, *layers, _SECOND if second else {}, _MASK if mask else {})
    if mask and second:
        settings["mask"]["norm"] = "frozen"
    box, masks, step = "box_head.", "mask_head.", 3 if second else 2
    names = {
        "backbone.body.": "backbone.body.",
        "backbone.fpn.": "backbone.fpn.",
        "rpn.head.conv.": "rpn.head.conv.0.0.",
        "rpn.head.deeper.0.": "rpn.head.conv.1.0.",
        "rpn.head.": "rpn.head.",
        **_blocks(f"{box}trunk.convs.", "roi_heads.box_head.", 3),
        f"{box}trunk.fc.1.": "roi_heads.box_head.5.",
        f"{box}trunk.1.": "roi_heads.box_head.fc6.",
        f"{box}trunk.3.": "roi_heads.box_head.fc7.",
        box: "roi_heads.box_predictor.",
        **_blocks(f"{masks}layers.", "roi_heads.mask_head.", step),
        f"{masks}layers.{4 * step}.": "roi_heads.mask_predictor.conv5_mask.",
        f"{masks}mask_logits.": "roi_heads.mask_predictor.mask_fcn_logits.",
    }
    earlier = {"rpn.head.conv.0.0.": "rpn.head.conv."}
    earlier |= {f"roi_heads.mask_head.{i}.0.": f"roi_heads.mask_head.mask_fcn{i + 1}." for i in range(4)}
    return Published(
        name,
        f"{'mask' if mask else 'faster'}-rcnn/{backbone}",
        settings,
        names,
        ("box_head.cls_score.", "box_head.bbox_pred.", "mask_head.mask_logits."),
        released,
        eps,
        {} if second else earlier,
    )


def _blocks(ours: str, theirs: str, step: int) -> dict[str, str]:
    """Four blocks of convolution, norm where `step` is 3, and ReLU: flat in our list, apart in its."""
    return {f"{ours}{step * i + k}.": f"{theirs}{i}.{k}." for i in range(4) for k in range(step - 1)}


MODELS: dict[str, Published] = {
    entry.name: entry
    for entry in (
        _published("fasterrcnn_resnet50_fpn", "258fb6c6", _RESNET, eps=0.0),
        _published("fasterrcnn_resnet50_fpn_v2", "dd69338a", _RESNET),
        _published("fasterrcnn_mobilenet_v3_large_fpn", "fb6a3cc7", _MOBILENET),
        _published("fasterrcnn_mobilenet_v3_large_320_fpn", "907ea3f9", _MOBILENET, _SMALL),
        _published("maskrcnn_resnet50_fpn", "bf2d0c1e", _RESNET, eps=0.0),
        _published("maskrcnn_resnet50_fpn_v2", "73cbd019", _RESNET),
    )
}


def read(path: Path, asked: Asked) -> Imported:
    """The detector of a torchvision state dict (.pth, .pt, .safetensors), with the conventions it was trained under.

    Raises:
        UserError: the file is no such state dict, is ambiguous and `asked` does not say which, or does not fit what is
            asked for; as of `backbones.weights.read`.
    """
    state = weights.read(path)
    found, eps = _which(path, state, asked)
    settings = merged(found.settings, {"backbone": {"eps": eps}})
    classes, notes = class_names(path, len(_of_classes(path, state)) - 1, asked)
    return Imported(found.system, classes, settings, _translated(path, state, found, classes, settings), notes)


def _which(path: Path, state: Mapping[str, Tensor], asked: Asked) -> tuple[Published, float]:
    """The constructor that the file is of, and the eps of its batch norm."""
    if asked.model and asked.model not in MODELS:
        raise UserError(f"--model '{asked.model}' is not one of torchvision's detectors{nearest(asked.model, MODELS)}")
    possible = _candidates(path, state)
    released = None
    if not asked.model and (len(possible) > 1 or _eps_unsaid(state, possible[0])):
        digest = _digest(path)
        released = next((entry for entry in possible if digest.startswith(entry.released)), None)
    if asked.model:
        if MODELS[asked.model] not in possible:
            raise UserError(f"'{path}' has the keys of {_listed(possible)}, not of --model '{asked.model}'")
        possible = [MODELS[asked.model]]
    elif released is not None:
        possible = [released]
    if len(possible) > 1:
        raise UserError(f"'{path}' fits {_listed(possible)}, whose keys are the same: expected one of them as --model")
    found = possible[0]
    if asked.bn_eps is not None:
        return found, asked.bn_eps
    if released is None and _eps_unsaid(state, found):
        raise UserError(
            f"'{path}' has frozen batch norm, and its keys do not say which eps: expected --bn-eps 0.0 for weights that"
            f" started from torchvision's released ones of {found.name}, --bn-eps 1e-5 for any others"
        )
    return found, found.settings["backbone"]["eps"] if released is None else released.released_eps


def _candidates(path: Path, state: Mapping[str, Tensor]) -> list[Published]:
    """The constructors whose keys the file has; never none."""
    _refuse_others(path, state)
    mask = any(key.startswith("roi_heads.mask_predictor.") for key in state)
    second = "roi_heads.box_head.5.weight" in state
    mobile = "backbone.body.0.0.weight" in state
    fits = [
        entry
        for entry in MODELS.values()
        if (entry.name.startswith("mask"), entry.name.endswith("_v2"), "mobilenet" in entry.name)
        == (mask, second, mobile)
    ]
    if not fits:
        raise UserError(f"'{path}' is a detector that torchvision has no constructor for; known are {_listed(MODELS)}")
    return fits


def _refuse_others(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises the sentence about a file that is no detector of the family."""
    if "rpn.head.cls_logits.weight" in state and "roi_heads.box_predictor.cls_score.weight" in state:
        if any(key.startswith("roi_heads.keypoint") for key in state):
            raise UserError(f"'{path}' is a Keypoint R-CNN, which this library has no system for")
        return
    if "backbone.conv1.weight" in state and "classifier.4.weight" in state:
        raise UserError(
            f"'{path}' is torchvision's FCN: a dilated ResNet, whose map of stride 8 is scored alone; the FCN here has"
            " maps of strides 32, 16 and 8, each scored and then added, as its paper has, and no place for the weights"
        )
    classifier = backbones.recognise(state)
    if classifier:
        raise UserError(
            f"'{path}' is an image classifier, which needs no import: give it to a detector that starts from it, as"
            f" `rcnn train faster-rcnn/{classifier} --weights {path}`"
        )
    raise UserError(f"'{path}' holds none of torchvision's detectors: expected the state dict of {_listed(MODELS)}")


def _eps_unsaid(state: Mapping[str, Tensor], found: Published) -> bool:
    """Whether the keys leave it open which eps batch norm has: counters are those of layers whose eps is 1e-5."""
    return found.released_eps != 1e-5 and not any(key.endswith(COUNTER) for key in state)


def _digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with telling(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: Any) -> str:
    words = [name if isinstance(name, str) else name.name for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _of_classes(path: Path, state: Mapping[str, Tensor]) -> Tensor:
    """The weights [K + 1, D] of the last layer."""
    last = state["roi_heads.box_predictor.cls_score.weight"]
    if last.ndim != 2 or len(last) < 2:
        raise UserError(
            f"'{path}': roi_heads.box_predictor.cls_score.weight is {list(last.shape)}, expected [K + 1, D]"
        )
    return last


def _translated(
    path: Path, state: Mapping[str, Tensor], found: Published, classes: tuple[str, ...], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """All tensors by our keys; every key of the file has to be used and to have the shape that is expected."""
    with torch.device("meta"):
        shapes = {
            key: value.shape for key, value in create(found.system, classes, settings=settings).state_dict().items()
        }
    result = {f"backbone.normalise.{key}": value for key, value in Normalise().state_dict().items()}
    used = set()
    for key, shape in shapes.items():
        if key in result:
            continue
        there = theirs = found.theirs(key)
        for start, earlier in found.earlier.items():
            if theirs not in state and theirs.startswith(start):
                there = earlier + theirs.removeprefix(start)
        if there not in state:
            raise UserError(f"'{path}' lacks '{theirs}', which {found.name} has")
        value = state[there]
        if value.shape != shape:
            raise UserError(f"'{path}': '{there}' is {list(value.shape)}, in {found.name} it is {list(shape)}")
        result[key] = _ours(key, value.float(), found)
        used.add(there)
        counter = re.sub(r"running_mean$", COUNTER, there)
        if counter != there and counter in state:
            result[re.sub(r"running_mean$", COUNTER, key)] = state[counter]
            used.add(counter)
    unused = [key for key in state if key not in used]
    if unused:
        raise UserError(f"'{path}' has {len(unused)} tensors that {found.name} lacks, first '{unused[0]}'")
    return result


def _ours(key: str, value: Tensor, found: Published) -> Tensor:
    """A tensor [K + 1, …] or [4·(K + 1), …] of a module with outputs for each class, the background brought last."""
    if not key.startswith(found.rolled):
        return value
    return rolled(value, 4 if "bbox_pred" in key else 1, -1)


def rolled(value: Tensor, width: int, places: int) -> Tensor:
    """The outputs [width·(K + 1), …] of K + 1 classes moved on by `places`, those at the end to the beginning."""
    return value.unflatten(0, (-1, width)).roll(places, 0).flatten(0, 1).contiguous()
