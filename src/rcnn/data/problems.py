"""What is wrong with a data set: where, what value, and what to do about it.

Readers note problems and go on. Opening a data set raises the first as one sentence; `rcnn data check` lists them all.
G are the ground-truth objects of all images together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np

from rcnn.data.index import Index, IndexBuilder
from rcnn.errors import UserError

# A box may pass the image's edge by this much, as rounding and 0-based VOC files make it do; it is cut and counted.
OVERSHOOT = 1.0
_ROUNDING = 0.01  # less than this is cut without a word


# Given a number of items, a context whose function is told how many are done: `rcnn.cli.progress`, for one.
Progress = Callable[[int], AbstractContextManager[Callable[[int], object]]]


def silent(total: int) -> AbstractContextManager[Callable[[int], object]]:
    """A `Progress` that shows nothing."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file (and the object in it), what was found there, and the fix."""

    file: str
    what: str
    fix: str

    def __str__(self) -> str:
        place = "" if self.file in self.what else f"{self.file}: "
        return f"{place}{self.what}; {self.fix}"

    def to_dict(self) -> dict[str, str]:
        """As a plain dictionary."""
        return asdict(self)


def refuse(problems: Sequence[Problem]) -> None:
    """Raises the first problem as a `UserError` that says how many more there are; returns where there is none."""
    if problems:
        others = len(problems) - 1
        more = f" ({others} more: `rcnn data check` lists them all)" if others else ""
        raise UserError(f"{problems[0]}{more}")


def check_boxes(builder: IndexBuilder, index: Index) -> list[Problem]:
    """Cuts boxes that pass the edge by up to `OVERSHOOT` pixels, in place, and reports those that cannot be used.

    How many were cut by more than rounding is set in `index.facts["clipped"]`. A box that is reported keeps its values.
    """
    boxes = index.boxes  # [G, 4]
    owner = np.repeat(np.arange(len(index)), np.diff(index.first))  # [G]
    limit = np.tile(index.sizes[:, ::-1].astype(np.float32), 2)[owner]  # [G, 4] as w h w h
    with np.errstate(invalid="ignore"):
        cut = np.minimum(np.maximum(boxes, 0), limit)
        beyond = np.abs(cut - boxes).max(axis=1, initial=0)  # [G], as those that follow
        finite = np.isfinite(boxes.sum(axis=1))
        inside = beyond <= OVERSHOOT
        upright = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > 0
        solid = (cut[:, 2:] - cut[:, :2]).min(axis=1, initial=np.inf) > 0
    sound = finite & inside & upright & solid
    index.facts["clipped"] = int((sound & (beyond > _ROUNDING)).sum())
    problems = []
    for g in np.flatnonzero(~sound):
        height, width = index.sizes[owner[g]].tolist()
        box = f"box ({', '.join(f'{value:g}' for value in boxes[g].tolist())})"
        if not finite[g]:
            what, fix = f"{box} is not finite", "its corners must be numbers"
        elif not upright[g]:
            inverted = bool((boxes[g, 2:] < boxes[g, :2]).any())
            what = f"{box} is inside out: its right or bottom comes first" if inverted else f"{box} has no area"
            fix = "swap its corners" if inverted else "take it out or correct it"
        else:
            what, fix = f"{box} lies outside its image of {width}×{height} pixels", "correct it or cut it to the image"
        problems.append(Problem(f"{builder.sources[owner[g]]}, {builder.marks[g]}", what, fix))
    boxes[sound] = cut[sound]
    return problems
