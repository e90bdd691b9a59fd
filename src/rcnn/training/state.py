"""The state of an unfinished run: all that its next step depends on, in one file that is replaced whole or not at all.

Random numbers need no place in it: every draw's seed is a function of the run's seed and the step's number, so a
resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rcnn.errors import RCNNError
from rcnn.files import writing

FILE = Path("state") / "state.pt"
# What stages start from that begin anew.
FIRST_FILE = Path("state") / "first.pt"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        stage: index of the stage that is under way.
        step: optimiser steps done in it.
        evaluated: step of the stage after which the last evaluation was made; −1 before the first.
        best: highest mAP so far, −1 before the first evaluation.
        best_step: step of that evaluation.
        waited: evaluations since then.
        seconds: time spent so far; `stage_seconds`: in the stage that is under way.
    """

    stage: int = 0
    step: int = 0
    evaluated: int = -1
    best: float = -1.0
    best_step: int = -1
    waited: int = 0
    seconds: float = 0.0
    stage_seconds: float = 0.0

    def count(self, seconds: float) -> None:
        """Adds time spent."""
        self.seconds += seconds
        self.stage_seconds += seconds


def save_state(run: Path, state: dict[str, Any], file: Path = FILE) -> None:
    """Writes the state beside the run's present one and puts it in that one's place once it is whole."""
    with writing(run / file) as beside:
        torch.save(state, beside)


def load_state(run: Path, file: Path = FILE) -> dict[str, Any] | None:
    """The run's state, on the CPU; None where the run was stopped before its first.

    Raises:
        RCNNError: the file is damaged.
    """
    for leftover in (run / file).parent.glob(f".{file.stem}.*.part*"):
        leftover.unlink(missing_ok=True)  # a process was killed while it wrote
    if not (run / file).exists():
        return None
    try:
        return torch.load(run / file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler fails in as many ways as a file can be damaged
        first = (str(error).splitlines() or [""])[0]
        raise RCNNError(f"'{run / file}' is damaged, so the run cannot be resumed: {first}") from error
