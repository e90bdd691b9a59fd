"""Dual coordinate descent in numpy: sample after sample, all classes at once. Letters: N samples, K classes."""

from __future__ import annotations

import numpy as np

from rcnn.kernels.dual_descent import Descent


def descend(problem: Descent, order: np.ndarray, classes: np.ndarray, before: np.ndarray) -> None:
    """One pass in `order` [N] over `classes`, whose worst violations were `before` [K]; see `rcnn.kernels.descend`."""
    for n in order:
        k = classes[problem.live[n, classes]]
        row, y, old = np.append(problem.rows[n], problem.constant), problem.y[n, k], problem.alpha[n, k]
        softness, limit = problem.softness[n, k], problem.limits[n, k]
        slope = y * (problem.w[k] @ row) - 1 + softness * old
        held = ((old == 0) & (slope > 0)) | ((old == limit) & (slope < 0))
        problem.live[n, k] = ~held | (np.abs(slope) <= before[k])
        problem.worst[k] = np.maximum(problem.worst[k], np.where(held, 0, np.abs(slope)))
        new = np.where(held, old, np.clip(old - slope / (problem.squares[n] + softness), 0, limit))
        problem.alpha[n, k] = new
        problem.w[k] += ((new - old) * y)[:, None] * row
