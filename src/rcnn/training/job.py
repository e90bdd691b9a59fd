"""What a stage works with: the model, the data, a folder of its own, and a way to say how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rcnn.data import Dataset
from rcnn.detectors import Detector
from rcnn.training.interrupt import Interrupt, Stopped
from rcnn.training.progress import Reporter
from rcnn.training.world import World

if TYPE_CHECKING:
    from rcnn.training.recipe import Recipe

FOLDER = "stages"


@dataclass(frozen=True)
class Job:
    """A run as its stages see it.

    Attributes:
        model: on its device.
        recipe: every setting of the run.
        train_set: the images to learn from; `val_set`: those to judge on.
        regions: gives the boxes [N, 4] of an image of a data set, in its own pixels, best first, for systems that
            take them from outside the network; None for the others.
        run: the run folder.
        workers: processes that load images.
        world: the processes that train together.
        reporter: says what happens.
        interrupt: whether a signal asked the run to stop.
        stage: the name of the stage at work.
    """

    model: Detector
    recipe: Recipe
    train_set: Dataset
    val_set: Dataset
    regions: Callable[[Dataset, int], np.ndarray] | None
    run: Path
    workers: int
    world: World
    reporter: Reporter
    interrupt: Interrupt
    stage: str = ""

    def at(self, stage: str) -> Job:
        """The job as the stage of that name has it."""
        return replace(self, stage=stage)

    @property
    def folder(self) -> Path:
        """The stage's own folder, made when it is asked for; what lies in it outlives an interruption."""
        folder = self.earlier(self.stage)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def earlier(self, stage: str) -> Path:
        """The folder of another stage of the run."""
        return self.run / FOLDER / stage

    def progress(self, done: int, total: int) -> None:
        """Shows that `done` of `total` are done, and stops here if a signal asked for it."""
        self.reporter.work(self.stage, done, total)
        self.pause()

    def say(self, text: str) -> None:
        """A line of the talk."""
        self.reporter.say(f"{self.stage}: {text}")

    def pause(self) -> None:
        """Does nothing unless a signal asked the run to stop.

        Raises:
            Stopped: it did; the stage goes on from what lies in its folder when the run is resumed.
        """
        if self.interrupt.requested:
            raise Stopped
