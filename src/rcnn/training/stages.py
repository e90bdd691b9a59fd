"""A training scheme is a list of stages: what trains in each, for how long, and at which rate.

Approximate joint training (Ren et al. 2017, section 3.2) is one stage of everything. Each stage starts from the weights
that the one before it left, has an optimiser and a schedule of its own, and is resumed at the step where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from rcnn.errors import UserError, nearest


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: as the plan and the progress line say it.
        trains: patterns of the names of parameters that train; those that the model itself froze stay frozen.
        steps: optimiser steps.
        lr: learning rate before its schedule, scaled to the batch.
    """

    name: str
    trains: tuple[str, ...]
    steps: int
    lr: float


def joint(steps: int, lr: float) -> list[Stage]:
    """Approximate joint training: one network, one backward pass (Ren et al. 2017, section 3.2, item ii)."""
    return [Stage("joint", ("*",), steps, lr)]


# Name of the scheme → its stages for so many steps each, at a learning rate.
SCHEMES: dict[str, Callable[[int, float], list[Stage]]] = {"joint": joint}


def release(model: nn.Module, stage: Stage, trainable: set[str]) -> None:
    """Lets the parameters of `stage` train and freezes the rest.

    Args:
        trainable: names of the parameters that the model was built to train.

    Raises:
        UserError: a pattern fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in stage.trains:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"stage {stage.name}: '{pattern}' fits no parameter{nearest(pattern, names)}")
    for name, parameter in model.named_parameters():
        trains = any(fnmatchcase(name, pattern) for pattern in stage.trains)
        parameter.requires_grad_(trains and name in trainable)
