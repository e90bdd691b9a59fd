"""SVMs by dual coordinate descent (Hsieh et al. 2008, the method of liblinear), for K classes in one reading of the
samples: the solver for the CPU.

Each sample has a dual variable α in every class, and w = Σ α y x. A step changes one α to where the dual objective is
least. The stop is a proof: the duality gap bounds how far an objective is from its minimum. Letters: N samples, D
features, K classes.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from rcnn.errors import RCNNError
from rcnn.heads.svm_objective import Objective, dot
from rcnn.kernels import Descent, descend

PASSES = 2000
# The gap takes a product over all samples: it is looked at when no violation is larger than this, then than a third of
# the one before.
FIRST_LOOK = {"hinge": 0.005, "squared_hinge": 0.05}


def solve(objective: Objective, tolerance: float) -> Tensor:
    """w [K, D+1] whose duality gap is at most `tolerance` times the objective, in every class.

    Args:
        objective: its tensors on the CPU.
        tolerance: a share.

    Raises:
        RCNNError: the features are not finite.
    """
    descent = _descent(objective)
    w, live = torch.from_numpy(descent.w), np.arange(objective.y.shape[1])
    look = np.full(len(live), FIRST_LOOK[objective.loss], np.float32)
    order = np.random.default_rng(0)
    for _ in range(PASSES):
        descend(descent, order.permutation(len(descent.rows)), live)
        ready = live[descent.worst[live] <= look[live]]
        if not len(ready):
            continue
        part = objective.of(torch.from_numpy(ready))
        scores = part.scores(w[ready])
        alpha = torch.from_numpy(descent.alpha[:, ready])
        primal = part.value(w[ready], part.errors(scores))
        gap = (primal - _dual(part, w[ready], alpha)).numpy()
        if not np.isfinite(gap).all():
            raise RCNNError("the SVMs cannot be fitted: the features hold values that are not finite")
        done = gap <= tolerance * primal.numpy()
        # What was left aside wrongly is looked at again.
        inside = (part.y * scores < 1 + torch.from_numpy(descent.worst[ready])) | (alpha > 0)
        descent.live[:, ready] = (inside & (part.costs > 0)).numpy()
        look[ready] = descent.worst[ready] / 3
        live = np.setdiff1d(live, ready[done])
        if not len(live):
            return w
    warnings.warn(f"{len(live)} SVMs stopped short of the tolerance {tolerance}", stacklevel=3)
    return w


def _descent(objective: Objective) -> Descent:
    """The dual problems at α = 0."""
    rows, costs, y = objective.rows, objective.costs, objective.y
    hinge = objective.loss == "hinge"
    softness = torch.zeros_like(costs) if hinge else 0.5 / costs
    limits = costs if hinge else torch.full_like(costs, torch.inf)
    alpha, w = torch.zeros_like(costs), rows.new_zeros(y.shape[1], rows.shape[1] + 1)
    arrays = (y, softness, limits, alpha, costs > 0, w)
    squares = torch.linalg.vector_norm(rows, dim=1).square() + objective.constant**2
    return Descent(
        rows.numpy(),
        np.float32(objective.constant),
        squares.numpy(),
        *(np.ascontiguousarray(array.numpy()) for array in arrays),
        worst=np.full(y.shape[1], np.inf, np.float32),
    )


def _dual(objective: Objective, w: Tensor, alpha: Tensor) -> Tensor:
    """The dual objectives [K] in float64 of α [N, K] with their w [K, D+1]; never above the objectives' minima."""
    used = objective.costs > 0
    value = alpha.sum(0, dtype=torch.float64) - 0.5 * dot(w, w)
    if objective.loss == "hinge":
        return value
    shrunk = torch.where(used, alpha.square() / (4 * objective.costs), 0.0)
    return value - shrunk.sum(0, dtype=torch.float64)
