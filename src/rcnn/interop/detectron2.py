"""Detectors of Detectron2's model zoo: Fast, Faster and Mask R-CNN on ResNet-50 and 101 in the forms C4, DC5 and FPN.

The keys tell the network. What else it was trained under stands in its configurations (configs/Base-RCNN-*.yaml over
detectron2/config/defaults.py) and in no file of weights; docs/importing-detectron2.md has it row by row. Letters: K
classes, S anchor sizes and A anchors a place, C channels, P pooled side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.backbones import weights
from rcnn.backbones.backbone import Normalise
from rcnn.backbones.weights import Normalisation
from rcnn.errors import UserError
from rcnn.interop import pickles
from rcnn.interop.fitting import fitted, needed
from rcnn.interop.imported import Asked, Imported
from rcnn.interop.names import class_names

# Detectron2's PIXEL_MEAN, for the weights that its zoo starts from: blue first, not scaled.
STATISTICS = Normalisation("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
RATIOS = 3
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
DEPTHS = {6: 50, 23: 101}  # by the blocks of res4
# A box is kept where its sides are above 0, which ours compares with "at least".
ANY_SIZE = 1e-6

# Keys of our ResNet → those of the files; {body} is what comes before its stages, {stage} such as "backbone.res2".
_KEYS = [
    (r"backbone\.body\.conv1\.", "{body}stem.conv1."),
    (r"backbone\.body\.bn1\.", "{body}stem.conv1.norm."),
    (r"(?:backbone\.body|box_head\.trunk)\.layer(\d)\.(\d+)\.conv(\d)\.", "{stage}.{block}.conv{layer}."),
    (r"(?:backbone\.body|box_head\.trunk)\.layer(\d)\.(\d+)\.bn(\d)\.", "{stage}.{block}.conv{layer}.norm."),
    (r"(?:backbone\.body|box_head\.trunk)\.layer(\d)\.(\d+)\.downsample\.0\.", "{stage}.{block}.shortcut."),
    (r"(?:backbone\.body|box_head\.trunk)\.layer(\d)\.(\d+)\.downsample\.1\.", "{stage}.{block}.shortcut.norm."),
]
# Files of this toolkit that are something else, by keys that only they have.
_OTHERS = {
    "head.cls_subnet.": "RetinaNet",
    "sem_seg_head.": "a panoptic FPN",
    "roi_heads.keypoint_head.": "a keypoint detector",
    "roi_heads.box_head.0.": "a Cascade R-CNN",
    "roi_heads.mask_coarse_head.": "PointRend",
    "roi_heads.mask_head.coarse_head.": "PointRend",
}
# Keys that are worked out here, or that nothing needs.
_UNREAD = re.compile(r"pixel_(mean|std)|.*\banchor_generator\..*|.*\.num_batches_tracked")


@dataclass(frozen=True)
class _Form:
    """What the keys say of a file: "C4", "DC5" or "FPN", the ResNet's depth, and which branches there are."""

    form: str
    depth: int
    rpn: bool
    mask: bool

    @property
    def name(self) -> str:
        """As the model zoo calls it, less its schedule."""
        kind = "mask" if self.mask else "faster" if self.rpn else "fast"
        return f"{kind}_rcnn_R_{self.depth}_{self.form}"

    @property
    def system(self) -> str:
        """As this library calls it."""
        kind, form = self.name.partition("_")[0], {"C4": "c4", "DC5": "c5", "FPN": "fpn"}[self.form]
        return f"{kind}-rcnn/resnet{self.depth}-{form}"

    @property
    def body(self) -> str:
        """What comes before the ResNet's stages."""
        return "backbone.bottom_up." if self.form == "FPN" else "backbone."


def read(path: Path, asked: Asked) -> Imported:
    """The detector of a model-zoo file (.pkl) or of a checkpoint (.pth), with the conventions it was trained under.

    Raises:
        UserError: the file is no such model, or does not fit what is asked for; as of `interop.pickles.arrays` and
            `backbones.weights.read`.
    """
    state = tensors(path)
    form = _recognised(path, state)
    if asked.model and not re.fullmatch(re.escape(form.name) + r"(_\w+)?", asked.model):
        raise UserError(f"'{path}' has the keys of '{form.name}', not of --model '{asked.model}'")
    classes, notes = class_names(path, _rows(path, state, "roi_heads.box_predictor.cls_score.weight") - 1, asked)
    settings = _settings(path, state, form, asked, len(classes))
    if not form.rpn:
        notes = [*notes, "it was trained on the regions of an RPN, which come with no Fast R-CNN: here others propose"]
    return Imported(form.system, classes, settings, _translated(path, state, form, classes, settings), notes)


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of this toolkit by key, in float32.

    Raises:
        UserError: as of `read`.
    """
    if path.suffix != ".pkl":
        state = weights.read(path)
        for key, value in state.items():
            if value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise UserError(f"'{path}' has '{key}' of shape {list(value.shape)}, which its bytes do not fill")
        return {key: value.float() for key, value in state.items()}
    return {key: torch.from_numpy(value.astype("float32")) for key, value in pickles.arrays(path).items()}


def _recognised(path: Path, state: Mapping[str, Tensor]) -> _Form:
    """The form of a file.

    Raises:
        UserError: it is of none.
    """
    expected = "expected Fast, Faster or Mask R-CNN on ResNet-50 or 101 as C4, DC5 or FPN"
    for start, other in _OTHERS.items():
        if any(key.startswith(start) for key in state):
            raise UserError(f"'{path}' is {other} of Detectron2; {expected}")
    if not any(key.startswith("roi_heads.") for key in state):
        raise UserError(f"'{path}' has no keys of a Detectron2 detector, such as 'roi_heads.…'; {expected}")
    fpn = "backbone.fpn_lateral2.weight" in state
    body = "backbone.bottom_up." if fpn else "backbone."
    blocks = {m[1] for key in state if (m := re.match(re.escape(body) + r"res4\.(\d+)\.", key))}
    wide = state.get(f"{body}res2.0.conv2.weight")
    if len(blocks) not in DEPTHS or wide is None or wide.shape[:2] != (64, 64):
        raise UserError(
            f"'{path}' has another backbone: {len(blocks)} blocks in res4 and no plain bottlenecks; {expected}"
        )
    return _Form(
        "FPN" if fpn else "C4" if "roi_heads.res5.0.conv1.weight" in state else "DC5",
        DEPTHS[len(blocks)],
        "proposal_generator.rpn_head.conv.weight" in state,
        any(key.startswith("roi_heads.mask_head.") for key in state),
    )


def _rows(path: Path, state: Mapping[str, Tensor], key: str) -> int:
    """How many outputs a layer has."""
    if key not in state or state[key].ndim < 2 or len(state[key]) < 2:
        raise UserError(f"'{path}' lacks '{key}', so it is no detector of Detectron2")
    return len(state[key])


def _settings(path: Path, state: Mapping[str, Tensor], form: _Form, asked: Asked, classes: int) -> dict[str, Any]:
    """What differs from the modern preset; the page names the source of each."""
    fpn, c4 = form.form == "FPN", form.form == "C4"
    box: dict[str, Any] = {"loss_beta": 0.0, "min_size": ANY_SIZE}
    if _rows_or_none(state, "roi_heads.box_predictor.bbox_pred.weight") == 4 and classes > 1:
        box["regression"] = "class-agnostic"
    if not c4:
        box["hidden"] = tuple(_widths(state, "roi_heads.box_head.fc{}.weight"))
    strides = any(float(value) != 1 for value in state.get("pixel_std", torch.ones(3)).flatten())
    settings: dict[str, Any] = {
        "image_size": (800, 1333),
        "backbone": {
            "norm": "frozen",
            "frozen_stages": 2,
            "eps": 1e-5 if asked.bn_eps is None else asked.bn_eps,
            "stride_on": "3x3" if strides else "1x1",  # configurations for torchvision's ResNet alone divide by a std
        },
        "pool": {"sampling_ratio": 0},
        "box": box,
    }
    if form.rpn:
        channels = _rows(path, state, "proposal_generator.rpn_head.conv.weight")
        sizes = tuple((size,) for size in SIZES) if fpn else (SIZES,)
        # Only what has a pyramid is padded there, to what its coarsest map divides.
        settings["anchors"] = {"sizes": sizes, "centre": 0.0, "padding": fpn}
        settings["rpn"] = {
            "channels": channels,
            "loss_beta": 0.0,
            "min_size": ANY_SIZE,
            "pre_nms": (2000, 1000) if fpn else (12000, 6000),
            "post_nms": (1000, 1000) if fpn else (2000, 1000),
        }
    if form.mask:
        mask: dict[str, Any] = {"deconv": _rows_or_none(state, "roi_heads.mask_head.deconv.bias") or 256}
        if not c4:
            mask["convs"] = tuple(_widths(state, "roi_heads.mask_head.mask_fcn{}.weight"))
        if _rows_or_none(state, "roi_heads.mask_head.predictor.weight") == 1 and classes > 1:
            mask["classes"] = "class-agnostic"
        settings["mask"] = mask
    return settings


def _rows_or_none(state: Mapping[str, Tensor], key: str) -> int | None:
    return len(state[key]) if key in state and state[key].ndim else None


def _widths(state: Mapping[str, Tensor], key: str) -> list[int]:
    """The outputs of layers that are numbered from 1."""
    widths: list[int] = []
    while (count := _rows_or_none(state, key.format(len(widths) + 1))) is not None:
        widths.append(count)
    return widths


def _translated(
    path: Path, state: Mapping[str, Tensor], form: _Form, classes: tuple[str, ...], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The state dict of the model of these settings.

    Raises:
        UserError: a tensor is missing, has another shape, or has no place.
    """
    expected = needed(form.system, classes, settings)
    statistics = Normalise(_statistics(path, state)).state_dict(prefix="backbone.normalise.")
    convs = len(settings.get("mask", {}).get("convs", ()))
    result, used = {}, set()
    for key, shape in expected.items():
        if key in statistics:
            result[key] = statistics[key]
            continue
        source = _theirs(key, form, convs)
        used.add(source)
        value = state.get(source)
        if value is None and source.endswith((".running_mean", ".running_var")):
            # Files of the first releases have no statistics where those are 0 and 1.
            value = torch.zeros(shape) if source.endswith("mean") else torch.ones(shape)
        value = fitted(path, source, value, shape)
        result[key] = _ratios_outermost(value, form) if key.startswith(("rpn.head.cls", "rpn.head.bbox")) else value
    left = sorted(key for key in state if key not in used and not _UNREAD.fullmatch(key))
    if left:
        raise UserError(
            f"'{form.name}', which '{path}' seems to be, has no place for {len(left)} of its tensors, first '{left[0]}'"
        )
    return result


def _theirs(key: str, form: _Form, convs: int) -> str:
    """Our key under its name in the files; `convs` is the number of 3×3 convolutions in the mask head."""
    for pattern, theirs in _KEYS:
        if m := re.match(pattern, key):
            number, block, layer = [*m.groups(), "", "", ""][:3]
            stage = f"res{int(number or 0) + 1}"
            stage = f"roi_heads.{stage}" if key.startswith("box_head") else form.body + stage
            return theirs.format(body=form.body, stage=stage, block=block, layer=layer) + key[m.end() :]
    if m := re.match(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.", key):
        return f"backbone.fpn_{'lateral' if m[1] == 'inner' else 'output'}{int(m[2]) + 2}.{key[m.end() :]}"
    if m := re.match(r"box_head\.trunk\.(\d+)\.", key):
        return f"roi_heads.box_head.fc{(int(m[1]) + 1) // 2}.{key[m.end() :]}"
    if m := re.match(r"mask_head\.layers\.(\d+)\.", key):
        number = int(m[1]) // 2
        return f"roi_heads.mask_head.{'deconv' if number == convs else f'mask_fcn{number + 1}'}.{key[m.end() :]}"
    for ours, theirs in {
        "rpn.head.conv.": "proposal_generator.rpn_head.conv.",
        "rpn.head.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
        "rpn.head.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
        "mask_head.mask_logits.": "roi_heads.mask_head.predictor.",
        "box_head.": "roi_heads.box_predictor.",
    }.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _ratios_outermost(value: Tensor, form: _Form) -> Tensor:
    """A layer's outputs for A anchors [A or 4A, …] from sizes outermost to ratios outermost, our order."""
    sizes = 1 if form.form == "FPN" else len(SIZES)
    return value.unflatten(0, (sizes, RATIOS, -1)).transpose(0, 1).flatten(0, 2)


def _statistics(path: Path, state: Mapping[str, Tensor]) -> Normalisation:
    """What the weights expect of the pixels: the file's own numbers where it has them.

    Which channel is first is not among them; ImageNet's mean has more red than blue.
    """
    mean, std = (
        state.get(f"pixel_{name}", torch.tensor(getattr(STATISTICS, name))).flatten() for name in ("mean", "std")
    )
    numbers = [float(value) for value in (*mean, *std)]
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)) or 0 in numbers[3:]:
        raise UserError(f"'{path}' has a 'pixel_mean' or 'pixel_std' that is not three finite numbers")
    order = "RGB" if numbers[0] > numbers[2] else "BGR"
    return Normalisation(order, 255.0, tuple(numbers[:3]), tuple(numbers[3:]))  # type: ignore[arg-type]
