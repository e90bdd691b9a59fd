"""A training scheme is a list of stages, each of which learns by gradient steps or does another piece of work.

Every stage starts from the weights that the one before it left, but for the modules that it says start otherwise. A
`Learn` stage has an optimiser and a schedule of its own and is resumed at the step where it stopped. A `Work` stage
(finding regions, storing features, fitting SVMs) keeps what it has done so far in a folder of its own, and goes on from
there. Which stages a system has stands in `schemes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rcnn.errors import UserError

if TYPE_CHECKING:
    from rcnn.training.engine import Loader
    from rcnn.training.job import Job

# What a module may start from beside another module: the weights that the run began with.
FIRST = "first"


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
        parts: which of the model's losses are wanted, as of `Detector.losses`; "" is all of them. Each makes an update
            of its own, one after the other on the same images, all of which are one step.
        start: pairs of a module, by its dotted name, and what it starts from: `FIRST` or a like module. The others go
            on from where they are.
        frozen: modules that stand still with their statistics and without dropout, as they will when they are used.
        proposals: the stage of work that found the regions of its images; "" for those of the job, or the model's own.
        kept: whether the model as the stage leaves it stays in the stage's folder.
        loader: makes the stage's batches; None takes whole images, augmented as the recipe says.
        ahead: whether its batches, or like ones without proposals, can be made before the stages before it have run.
    """

    trains: tuple[str, ...]
    steps: int
    lr: float
    parts: tuple[str, ...] = ("",)
    start: tuple[tuple[str, str], ...] = ()
    frozen: tuple[str, ...] = ()
    proposals: str = ""
    kept: bool = False
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
    """Puts the model in training mode, lets the parameters of `stage` train and freezes the rest.

    Args:
        trainable: names of the parameters that the model was built to train.

    Raises:
        UserError: no parameter is left to train. One pattern that fits none is none the worse: a system may have been
            asked to do without these layers.
    """
    for name, parameter in model.named_parameters():
        trains = any(fnmatchcase(name, pattern) for pattern in stage.trains)
        parameter.requires_grad_(trains and name in trainable)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"stage {stage.name}: there is nothing to train in {', '.join(stage.trains)}")
    model.train()
    for name in stage.frozen:
        model.get_submodule(name).eval()


@torch.no_grad()
def begin(model: nn.Module, stage: Learn, first: Mapping[str, Tensor]) -> None:
    """Gives the modules of `stage.start` their weights and statistics; layers that the source lacks go on as they are.

    Args:
        first: the state that the run began with.
    """
    own = model.state_dict()
    for module, source in stage.start:
        given, place = (first, module) if source == FIRST else (own, source)
        for name, value in own.items():
            found = given.get(place + name.removeprefix(module))
            if name.startswith(f"{module}.") and found is not None:
                value.copy_(found)
