"""The systems by name: "faster-rcnn/resnet18-fpn" is a system and the backbone that it stands on.

A system is an entry that names its presets and the class that composes it; nothing else knows systems apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rcnn import backbones
from rcnn.detectors import fast_rcnn, faster_rcnn, fcn, mask_rcnn, rcnn, rfcn, sppnet
from rcnn.detectors.base import Model
from rcnn.detectors.options import updated
from rcnn.errors import UserError, nearest

RECIPES = ("classic", "modern")


@dataclass(frozen=True)
class System:
    """One generation of the family.

    Attributes:
        title: its name in prose.
        paper: authors and year.
        form: the backbone form that a bare "resnet50" stands for here, as the system was published.
        build: makes the model of (system name, classes, backbone, options).
        presets: recipe name → options for maps of given strides.
        semantic: whether it learns from label maps in place of objects.
    """

    title: str
    paper: str
    form: str
    build: Callable[..., Model[Any]]
    presets: Mapping[str, Callable[[Sequence[int]], Any]]
    semantic: bool = False


SYSTEMS: dict[str, System] = {
    "rcnn": System("R-CNN", "Girshick et al. 2014", "c4", rcnn.RCNN, {"classic": rcnn.classic, "modern": rcnn.modern}),
    "sppnet": System(
        "SPP-net", "He et al. 2014", "c4", sppnet.SPPNet, {"classic": sppnet.classic, "modern": sppnet.modern}
    ),
    "fast-rcnn": System(
        "Fast R-CNN",
        "Girshick 2015",
        "fpn",
        fast_rcnn.FastRCNN,
        {"classic": fast_rcnn.classic, "modern": fast_rcnn.modern},
    ),
    "faster-rcnn": System(
        "Faster R-CNN",
        "Ren et al. 2015",
        "fpn",
        faster_rcnn.FasterRCNN,
        {"classic": faster_rcnn.classic, "modern": faster_rcnn.modern},
    ),
    "mask-rcnn": System(
        "Mask R-CNN",
        "He et al. 2017",
        "fpn",
        mask_rcnn.MaskRCNN,
        {"classic": mask_rcnn.classic, "modern": mask_rcnn.modern},
    ),
    "rfcn": System("R-FCN", "Dai et al. 2016", "c5", rfcn.RFCN, {"classic": rfcn.classic, "modern": rfcn.modern}),
    **{
        f"fcn-{finest}s": System(
            f"FCN-{finest}s",
            "Long et al. 2015",
            "skip",
            partial(fcn.FCN, finest=finest),
            {"classic": fcn.classic, "modern": fcn.modern},
            semantic=True,
        )
        for finest in (32, 16, 8)
    },
}


def semantic(name: str) -> bool:
    """Whether the system of "SYSTEM/BACKBONE" learns from label maps in place of objects."""
    system = SYSTEMS.get(name.partition("/")[0])
    return system is not None and system.semantic


def parse(name: str) -> tuple[System, str]:
    """The system and the full backbone name of "SYSTEM/BACKBONE".

    Raises:
        UserError: an unknown system or backbone; names the nearest.
    """
    system_name, slash, backbone = name.partition("/")
    if system_name not in SYSTEMS:
        raise UserError(f"unknown system '{system_name}' in '{name}'{nearest(system_name, SYSTEMS)}")
    system = SYSTEMS[system_name]
    if not slash or not backbone:
        raise UserError(f"'{name}' names no backbone: expected SYSTEM/BACKBONE, such as {system_name}/resnet18")
    return system, backbones.entry(backbone, form=system.form).name


def create(
    name: str,
    classes: Sequence[str],
    *,
    recipe: str = "modern",
    weights: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Model[Any]:
    """A new model.

    Args:
        name: "SYSTEM/BACKBONE", see `rcnn models`.
        classes: names of the K classes, in the order of their labels.
        recipe: "modern" or "classic": which preset the settings start from.
        weights: a file of backbone weights, "imagenet" for the one that lies in the cache, or None for a random start.
        settings: a nested mapping of changes to the preset, such as {"rpn": {"nms": 0.6}}.

    Raises:
        UserError: an unknown name, class list, recipe or setting, or weights that do not fit.
    """
    system, backbone_name = parse(name)
    if recipe not in system.presets:
        raise UserError(f"unknown recipe '{recipe}'{nearest(recipe, system.presets)}")
    listed = not isinstance(classes, str) and isinstance(classes, Sequence)
    if not listed or not classes or len(set(classes)) != len(classes):
        raise UserError(f"expected a list of different class names, got {classes!r}")
    changes = dict(settings or {})
    built = updated(backbones.BackboneOptions(), changes.pop("backbone", {}), path="model.backbone")
    backbone = backbones.create(backbone_name, weights=weights, **asdict(built))
    # What "auto" became is kept, so that a saved model is rebuilt without its start weights.
    built = updated(built, {key: value for key, value in backbone.settings.items() if key != "name"})
    options = replace(updated(system.presets[recipe](backbone.strides), changes), backbone=built)
    return system.build(f"{name.partition('/')[0]}/{backbone_name}", tuple(classes), backbone, options)
