"""The training half of the named recipes, as data: what each presets in `[train]` and `[augment]`.

`modern`, what works today on small data, is what `TrainSettings` has as defaults. `classic` is what the papers did: one
image a step (two for Fast R-CNN), SGD at 0.001, biases at twice the rate without decay, one drop to a tenth at three
quarters of the run, mirrored images and nothing else (Girshick 2015, sections 2.3 and 4; Ren et al. 2017, section
3.1.3). The model half of a recipe is `detectors.preset`.
"""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "classic": {
        "train": {
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
        "augment": {"flip": 0.5},
    },
    "modern": {"train": {}, "augment": {"flip": 0.5}},
}

# What a system does otherwise than the rest in a recipe.
EXCEPTIONS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    # Girshick 2015, section 2.3: two images a step, 64 RoIs of each.
    ("fast-rcnn", "classic"): {"train": {"batch_size": 2, "lr_batch": 2}},
}


def training_presets(system: str, recipe: str) -> list[dict[str, dict[str, Any]]]:
    """What `recipe` sets for `system` ("faster-rcnn/resnet18-fpn"): mappings to be laid over one another in order."""
    return [RECIPES[recipe], EXCEPTIONS.get((system.partition("/")[0], recipe), {})]
