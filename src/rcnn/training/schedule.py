"""Learning-rate schedules as a pure function of the step, so that a resumed run needs to remember nothing.

The factor multiplies the base learning rate: a linear warm-up (Goyal et al. 2017, section 2.2), times either steps
(Girshick 2015, section 4.2: ×0.1 late in training), half a cosine (Loshchilov and Hutter 2017) or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# However short a run is, its warm-up takes no more of it than this.
LONGEST_WARMUP = 0.2


def factor(
    step: int,
    total: int,
    *,
    schedule: str,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_steps: int = 0,
    warmup_factor: float = 0.01,
) -> float:
    """What the learning rate is multiplied by in optimiser step `step` of `total`, counted from 0.

    Args:
        schedule: "step", "cosine" or "constant".
        milestones: for "step", where the rate is multiplied by `gamma`: fractions of the run below 1, else steps.
        warmup_steps: linear rise from `warmup_factor` to 1; at most a fifth of the run.
    """
    warmup = min(warmup_steps, int(LONGEST_WARMUP * total))
    rise = warmup_factor + (1 - warmup_factor) * step / warmup if step < warmup else 1.0
    if schedule == "step":
        passed = sum(step >= (milestone * total if milestone < 1 else milestone) for milestone in milestones)
        return rise * gamma**passed
    if schedule == "cosine":
        done = max(0, step - warmup) / max(1, total - warmup)
        return rise * 0.5 * (1 + math.cos(math.pi * done))
    return rise


def scaled_lr(lr: float, lr_batch: int, images: int) -> float:
    """The learning rate for `images` an optimiser step, scaled linearly from its value `lr` at `lr_batch` images.

    Linear scaling: Goyal et al. 2017, section 2.1. An `lr_batch` of 0 means that `lr` is used as it is.
    """
    return lr * images / lr_batch if lr_batch else lr
