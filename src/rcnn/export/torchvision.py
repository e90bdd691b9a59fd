"""A model as the state dict of torchvision's constructor: `interop.torchvision` the other way round.

What the constructor can be told otherwise (thresholds, numbers, image size) is said as its arguments; what it cannot be
told, where anchors are centred, say, has to be its own already, or its detections would not be the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.backbones.backbone import Normalise
from rcnn.detectors import Model, create, to_mapping
from rcnn.detectors.two_stage import TwoStage
from rcnn.errors import UserError
from rcnn.files import writing
from rcnn.interop.torchvision import MODELS, Published, rolled
from rcnn.training.reading import flat

# Our setting → the constructor's argument, or those of its parts.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "image_size": ("min_size", "max_size"),
    "rpn.pre_nms": ("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test"),
    "rpn.post_nms": ("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    "rpn.nms": ("rpn_nms_thresh",),
    "rpn.positive": ("rpn_fg_iou_thresh",),
    "rpn.negative": ("rpn_bg_iou_thresh",),
    "rpn.samples": ("rpn_batch_size_per_image",),
    "rpn.positive_fraction": ("rpn_positive_fraction",),
    "rpn.min_score": ("rpn_score_thresh",),
    "box.positive": ("box_fg_iou_thresh",),
    "box.samples": ("box_batch_size_per_image",),
    "box.positive_fraction": ("box_positive_fraction",),
    "box.score": ("box_score_thresh",),
    "box.nms": ("box_nms_thresh",),
    "box.detections": ("box_detections_per_img",),
    "box.coder_weights": ("bbox_reg_weights",),
}
# Settings that say nothing of what is detected.
TRAINING = (
    *("proposal_gradient", "backbone.frozen_stages", "backbone.convention", "backbone.norm"),
    *("rpn.init_std", "rpn.border", "rpn.loss_beta", "rpn.box_weight", "rpn.box_normaliser", "rpn.nms_training"),
    *("box.init_std", "box.negative", "box.append_truth", "box.ohem", "box.ohem_nms", "box.target_gradient"),
    *("box.loss_beta", "box.box_weight", "box.background_slot", "mask.background_slot", "mask.target", "mask.weight"),
    "mask.threshold",
)
# Settings that torchvision has its own way of, with detections that differ by little.
NEAR = ("resize", "anchors.padding", "anchors.step", "rpn.nms_shift", "box.nms_shift", "mask.paste")


def write(model: Model[Any], path: Path) -> list[str]:
    """Writes the state dict of a Faster or Mask R-CNN as `path`, and says which constructor loads it.

    Raises:
        UserError: torchvision has no constructor for the model, or none that would detect what it does.
    """
    found, options = _constructor(model)
    state = _theirs(model, found)
    with writing(path) as beside:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, beside)
        else:
            torch.save(state, beside)
    return _usage(model, found, options)


def _constructor(model: Model[Any]) -> tuple[Published, Mapping[str, Any]]:
    """The constructor whose network is the model's, and its settings, flat, those of `NEAR` and `ARGUMENTS` apart."""
    possible = [entry for entry in MODELS.values() if entry.system == model.system]
    if not possible:
        known = ", ".join(dict.fromkeys(entry.system for entry in MODELS.values()))
        raise UserError(f"torchvision has no constructor for a {model.system}; it has them for {known}")
    norm = model.options.backbone.norm
    if norm not in ("frozen", "batch"):
        raise UserError(
            f"torchvision's {possible[0].name} has batch norm, and this model was trained with norm = '{norm}'"
        )
    own = flat(to_mapping(model.options))
    differing: list[dict[str, Any]] = []
    for entry in possible:
        with torch.device("meta"):
            theirs = flat(to_mapping(create(entry.system, model.classes, settings=entry.settings).options))
        differing.append({key: value for key, value in theirs.items() if own[key] != value and key not in TRAINING})
    # Where constructors differ in nothing but arguments, that with the fewest of them.
    least = min(range(len(possible)), key=lambda index: len(differing[index]))
    found, differences = possible[least], differing[least]
    fixed = [key for key in differences if key not in (*ARGUMENTS, *NEAR, "backbone.eps")]
    if fixed:
        key = fixed[0]
        more = f", and so with {len(fixed) - 1} more settings" if len(fixed) > 1 else ""
        raise UserError(
            f"torchvision's {found.name} knows nothing but model.{key} = {differences[key]}, and this model has"
            f" {own[key]}{more}: its detections would not be the model's; train it with torchvision's settings"
        )
    _check_pixels(model, found)
    return found, {key: own[key] for key in differences}


def _check_pixels(model: Model[Any], found: Published) -> None:
    """Refuses backbones whose weights want other pixels than ImageNet's normalised RGB."""
    assert isinstance(model, TwoStage)
    own = {key: value.cpu() for key, value in model.backbone.normalise.state_dict().items()}
    if any(not torch.equal(value, own[key]) for key, value in Normalise().state_dict().items()):
        raise UserError(f"torchvision's {found.name} normalises RGB by ImageNet's statistics; this backbone does not")


def _theirs(model: Model[Any], found: Published) -> dict[str, Tensor]:
    """All tensors by the constructor's keys, the background's output first."""
    classes = len(model.classes)
    state = {}
    for key, value in model.state_dict().items():
        theirs = found.theirs(key)
        if theirs:
            value = value.detach().cpu()
            if key.startswith(found.rolled):
                width = 4 if "bbox_pred" in key else 1
                if len(value) == width * classes:  # no slot for the background: torchvision reads none either
                    value = torch.cat((value, value.new_zeros(width, *value.shape[1:])))
                value = rolled(value, width, 1)
            state[theirs] = value.contiguous().clone()
    return state


def _usage(model: Model[Any], found: Published, differences: Mapping[str, Any]) -> list[str]:
    """How to load the file, and what differs then."""
    arguments = [f"num_classes={len(model.classes) + 1}"]
    for key, names in ARGUMENTS.items():
        if key in differences:
            values = differences[key] if len(names) > 1 else [differences[key]]
            arguments += [f"{name}={value}" for name, value in zip(names, values, strict=True)]
    call = f"{found.name}(weights=None, weights_backbone=None, {', '.join(arguments)})"
    notes = [f"load it with torchvision.models.detection.{call} and load_state_dict"]
    if "backbone.eps" in differences:
        eps = differences["backbone.eps"]
        notes.append(
            f"its batch norm has eps {eps}: set `eps = {eps}` on each BatchNorm2d of model.backbone after that"
        )
    near = [f"model.{key}" for key in NEAR if key in differences]
    if near:
        notes.append(f"torchvision has its own {', '.join(near)}, so boxes and scores will differ a little")
    return notes
