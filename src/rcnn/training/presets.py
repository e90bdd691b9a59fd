"""The training half of the named recipes, as data. The model half is in `detectors`, with each system.

`modern`, what works today on small data, is what `TrainSettings` has as defaults. `classic` is what the papers did: one
image a step (two for Fast R-CNN), SGD at 0.001, biases at twice the rate without decay, one drop to a tenth at three
quarters of the run, mirrored images and nothing else (Girshick 2015, sections 2.3 and 4; Ren et al. 2017, section
3.1.3).
"""

from __future__ import annotations

from typing import Any

from rcnn.data import Augmentation
from rcnn.detectors import parse
from rcnn.training import presets_digits
from rcnn.training.schemes import SchemeSettings

RECIPES: dict[str, dict[str, Any]] = {
    "classic": {
        "batch_size": 1,
        "lr": 0.001,
        "lr_batch": 1,
        "weight_decay": 0.0005,
        "bias_lr": 2.0,
        "bias_decay": False,
        "schedule": "step",
        "milestones": [0.75],
        "warmup_steps": 0,
        "clip": 0.0,
    },
    "modern": {},
}

AUGMENTATIONS = {"classic": Augmentation.classic(), "modern": Augmentation.modern()}

# Long et al. 2015, section 4.3, and its code: heavy learning, without a drop, at a rate for losses that are summed over
# all pixels; a hundredth of it from stage to stage.
FCN = {"lr": 1e-10, "momentum": 0.99, "schedule": "constant"}
STAGED = {"plan": {"gamma": 0.01}}

# What a system does otherwise than the rest in a recipe. Girshick 2015, section 2.3: two images, 64 RoIs of each.
# Dai et al. 2016, section 3: the rate drops after two thirds. He et al. 2017, section 3.1: 0.02 for 16 images.
SYSTEMS: dict[tuple[str, str], dict[str, Any]] = {
    ("fast-rcnn", "classic"): {"batch_size": 2, "lr_batch": 2},
    ("rfcn", "classic"): {"milestones": [0.667]},
    ("mask-rcnn", "classic"): {"batch_size": 2, "lr": 0.02, "lr_batch": 16, "weight_decay": 0.0001},
    **{(f"fcn-{finest}s", "classic"): FCN for finest in (32, 16, 8)},
}

# What a scheme sets in the model.
SCHEMES: dict[tuple[str, str], dict[str, Any]] = {
    ("fast-rcnn", "svm"): {"scores": "svm"},
    **{(f"fcn-{finest}s", "staged"): {"head": {"skip_scales": [1.0, 1.0]}} for finest in (16, 8)},
}
# The weight of the gradient through the proposals, by recipe. Ren et al. 2017 (section 3.2, item iii) have it whole, at
# a rate of 0.001. Once the RPN has learned it is fifty times the gradient of its own losses, and drowns them at the
# rates of today.
PROPOSAL_GRADIENT = {"classic": 1.0, "modern": 0.05}


def needs(system: str, scheme: str, plan: SchemeSettings) -> dict[str, Any]:
    """What `scheme` cannot do without in the model of `system`."""
    family = system.partition("/")[0]
    if (family, scheme) == ("faster-rcnn", "joint-warp"):
        return {"pool": {"kind": "warp"}}
    if scheme == "alternating":
        return {"shared_backbone": not plan.apart}
    return {"shared_backbone": True} if scheme == "four-step" else {}


def presets(system: str, recipe: str, scheme: str, path: str) -> list[dict[str, Any]]:
    """What `recipe` and `scheme` set for `system` ("faster-rcnn/resnet18-fpn") on the data `path`, the later above."""
    family = system.partition("/")[0]
    return [
        {"train": RECIPES[recipe]},
        {"train": SYSTEMS.get((family, recipe), {})},
        {"train": STAGED if (recipe, scheme) == ("classic", "staged") else {}},
        {"model": SCHEMES.get((family, scheme), {})},
        *([{"model": {"proposal_gradient": PROPOSAL_GRADIENT[recipe]}}] if scheme == "joint-warp" else []),
        *(presets_digits.presets(f"{family}/{parse(system)[1]}", recipe) if path == "digits" else []),
    ]
