"""Which stages each system's training has: the lineage as a table of lists.

    fast-rcnn      propose → train, or propose → classify → boxes
    faster-rcnn    joint

Fast R-CNN: Girshick 2015, section 2.3; its stage-wise variant is that of table 6. Faster R-CNN: Ren et al. 2017,
section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rcnn.errors import UserError, nearest
from rcnn.training.proposing import find_regions
from rcnn.training.stages import Learn, Stage, Work


@dataclass(frozen=True)
class Budget:
    """What the stages of a run may take.

    Attributes:
        steps: optimiser steps of each stage that learns.
        lr: learning rate, scaled to the batch.
        random_start: whether the backbone's first weights are random.
    """

    steps: int
    lr: float
    random_start: bool = False


Scheme = Callable[[Budget], list[Stage]]

PROPOSE = Work(name="propose", what="finds the regions of every image", run=find_regions, shared=True)


def joint(budget: Budget) -> list[Stage]:
    """Approximate joint training: one network, one backward pass (Ren et al. 2017, section 3.2, item ii)."""
    return [Learn(name="joint", trains=("*",), steps=budget.steps, lr=budget.lr)]


def on_regions(budget: Budget) -> list[Stage]:
    """Regions first, then one network trained at once for classes and boxes (Girshick 2015, section 2.3)."""
    return [PROPOSE, Learn(name="train", trains=("*",), steps=budget.steps, lr=budget.lr)]


def stage_wise(budget: Budget) -> list[Stage]:
    """The classifier first, then the box layer alone on its frozen features (Girshick 2015, section 5.1)."""
    classify = Learn(name="classify", trains=("*",), steps=budget.steps, lr=budget.lr, part="classify", evaluated=False)
    boxes = Learn(name="boxes", trains=("box_head.bbox_pred.*",), steps=budget.steps, lr=budget.lr, part="boxes")
    return [PROPOSE, classify, boxes]


# System → name of the scheme → its stages; the first is the one that is used unasked.
SCHEMES: dict[str, dict[str, Scheme]] = {
    "fast-rcnn": {"joint": on_regions, "stage-wise": stage_wise},
    "faster-rcnn": {"joint": joint},
}


def scheme_of(system: str, name: str | None) -> tuple[str, Scheme]:
    """The scheme `name` of "SYSTEM/BACKBONE", or the system's usual one, with its name.

    Raises:
        UserError: the system has no such scheme.
    """
    family = system.partition("/")[0]
    schemes = SCHEMES[family]
    chosen = name or next(iter(schemes))
    if chosen not in schemes:
        raise UserError(f"{family} has no scheme '{chosen}'{nearest(chosen, schemes)}")
    return chosen, schemes[chosen]
