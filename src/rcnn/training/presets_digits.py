"""What the embedded data ask for: the modern recipes cut to 320 × 240 pixels, ten classes of handwriting and two cores.

Objects have 20 to 100 px, so that images shrink to 192 × 256 without padding and pyramids end at stride 16. Batch norm
learns fastest where a batch holds enough images, and as many regions as half a hundred digits give teach the classes.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

IMAGE = {"model": {"image_size": [192, 256]}}
BATCH_NORM = {"model": {"backbone": {"norm": "batch"}}}
# A few passes over 400 images need no more variety than the images have, as long as regions are pooled to one size.
PLAIN = {"augment": {"scale": [1.0, 1.0], "photometric": 0.0, "iou_crop": 0.0, "zoom_out": 0.0}}
STEPS = {"train": {"epochs": 14.0, "batch_size": 8, "lr": 0.04, "lr_batch": 8, "eval_every": 7.0}}
PYRAMID = {"model": {"backbone": {"levels": [4, 8, 16], "channels": 64}}}
HEAD = {"model": {"box": {"hidden": [256, 256], "samples": 64, "positive_fraction": 0.5}}}
ANCHORS = {"model": {"anchors": {"sizes": [[20.0], [40.0], [70.0]]}}}
FEW = {"model": {"rpn": {"pre_nms": [500, 300], "post_nms": [500, 300]}}}
ONE_MAP = {
    "model": {
        "anchors": {"sizes": [[20.0, 40.0, 70.0]]},
        "pool": {"size": 3},
        "box": {"channels": 256, "samples": 128, "positive_fraction": 0.5},
    }
}
# Maps of stride 16 and more are coarse for digits, so that systems that have only them see the images larger.
LARGER = {"model": {"image_size": [288, 384]}}
LARGEST = {"model": {"image_size": [576, 768]}}
# The surroundings that the convolutions will meet in whole images; as few crops a step as learn in a few minutes.
CROPS = {"model": {"warp": {"size": 128, "context": 20}, "finetune": {"truths": 64}, "hidden": [512, 512]}}
# The loss over all pixels, of which few are ink, wants a higher rate than that over the objects' pixels alone, and many
# more passes.
DENSE = {
    "augment": {"scale": [0.75, 1.33]},
    "train": {"epochs": 40.0, "lr": 0.3, "plan": {"pretrain_lr": 0.33, "pretrain_steps": 0.2}},
}
SLOW = {"train": {"epochs": 4.0, "batch_size": 4, "lr": 0.015, "lr_batch": 4}}
# One grouping finds 150 regions that cover 96% of the digits.
REGIONS = {"model": {"regions": {"mode": "single", "min_side": 10.0}}}
# A mirrored 2 is no digit.
UPRIGHT = {"augment": {"flip": 0.0}}

RECIPES: list[tuple[str, list[dict[str, Any]]]] = [
    ("*", [IMAGE, PLAIN, STEPS]),
    ("*-fpn", [PYRAMID, BATCH_NORM]),
    ("fast-rcnn/*", [HEAD, REGIONS]),
    ("faster-rcnn/*", [HEAD, FEW]),
    ("faster-rcnn/*-fpn", [ANCHORS]),
    ("mask-rcnn/*", [HEAD, FEW, {"model": {"mask": {"convs": [64] * 4, "deconv": 64}}, "train": {"epochs": 20.0}}]),
    ("mask-rcnn/*-fpn", [ANCHORS]),
    ("rfcn/*", [BATCH_NORM, LARGER, ONE_MAP, FEW, {"train": {"epochs": 26.0}}]),
    ("rcnn/*", [REGIONS, BATCH_NORM, {"model": {"warp": {"size": 64}}, "train": {"epochs": 6.0, "lr": 0.02}}]),
    ("sppnet/*", [REGIONS, BATCH_NORM, LARGEST, CROPS, SLOW]),
    ("fcn-*", [BATCH_NORM, LARGER, DENSE]),
]


def presets(system: str, recipe: str) -> list[dict[str, Any]]:
    """The settings of "SYSTEM/BACKBONE", the backbone by its full name, on the digits, the later above."""
    if recipe != "modern":
        return [UPRIGHT]
    return [UPRIGHT, *(layer for pattern, layers in RECIPES if fnmatch(system, pattern) for layer in layers)]
