"""A training scheme is a list of stages, each of which learns by gradient steps or does another piece of work.

Every stage starts from the weights that the one before it left. A `Learn` stage has an optimiser and a schedule of its
own and is resumed at the step where it stopped. A `Work` stage (finding regions, storing features, fitting SVMs) keeps
what it has done so far in a folder of its own, and goes on from there. Which stages a system has stands in `schemes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from rcnn.errors import UserError, nearest

if TYPE_CHECKING:
    from rcnn.training.engine import Loader
    from rcnn.training.job import Job


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of a run.

    Attributes:
        name: as the plan and the progress line say it.
        evaluated: whether the model detects once the stage has begun, so that it is worth judging.
    """

    name: str
    evaluated: bool = True


@dataclass(frozen=True, kw_only=True)
class Learn(Stage):
    """Gradient steps.

    Attributes:
        trains: patterns of the names of parameters that train; those that the model itself froze stay frozen.
        steps: optimiser steps.
        lr: learning rate before its schedule, scaled to the batch.
        part: which of the model's losses are wanted, as of `Detector.losses`; "" is all of them.
        loader: makes the stage's batches; None takes whole images, augmented as the recipe says.
        ahead: whether its batches can be made before the stages before it have run.
    """

    trains: tuple[str, ...]
    steps: int
    lr: float
    part: str = ""
    loader: Callable[[Job], Loader] | None = None
    ahead: bool = True


@dataclass(frozen=True, kw_only=True)
class Work(Stage):
    """Anything else.

    Attributes:
        what: what it does, for the plan.
        run: does it; called again after an interruption, it goes on from what lies in the job's folder. What it fits
            becomes part of the model.
        shared: whether processes that train together each do a share; otherwise there may be only one.
    """

    what: str
    run: Callable[[Job], None]
    evaluated: bool = False
    shared: bool = False


def release(model: nn.Module, stage: Learn, trainable: set[str]) -> None:
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
