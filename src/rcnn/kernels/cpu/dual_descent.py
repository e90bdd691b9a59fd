"""Dual coordinate descent on the CPU: a sample is read from memory once for all classes that still look at it.

Letters: N samples, D features, K classes.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.cpu.threads import kernel, run, threads
from rcnn.kernels.dual_descent import Descent

# A sum's terms may be added in any order, so that its loop vectorises.
REORDERED = {"reassoc", "contract", "nsz"}


def descend(problem: Descent, order: np.ndarray, classes: np.ndarray, before: np.ndarray) -> None:
    """One pass in `order` [N] over `classes`, whose worst violations were `before` [K]; see `rcnn.kernels.descend`.

    Threads share out the classes.
    """
    table = (problem.rows, problem.constant, problem.squares, problem.y, problem.softness, problem.limits)
    state = (problem.alpha, problem.live, problem.w, before, problem.worst)
    run([(_pass, order, part, *table, *state) for part in np.array_split(classes, min(threads(), len(classes)))])


@kernel(fastmath=REORDERED)
def _pass(
    order: np.ndarray,
    classes: np.ndarray,
    rows: np.ndarray,  # [N, D]
    constant: np.float32,
    squares: np.ndarray,  # [N]
    y: np.ndarray,  # [N, K]
    softness: np.ndarray,  # [N, K]
    limits: np.ndarray,  # [N, K]
    alpha: np.ndarray,  # [N, K]
    live: np.ndarray,  # [N, K]
    w: np.ndarray,  # [K, D+1]
    before: np.ndarray,  # [K]
    worst: np.ndarray,  # [K]
) -> None:
    for n in order:
        for k in classes:
            if not live[n, k]:
                continue
            old = alpha[n, k]
            slope = y[n, k] * _score(rows[n], constant, w[k]) - 1 + softness[n, k] * old
            low, high = old == 0 and slope > 0, old == limits[n, k] and slope < 0
            if (low or high) and abs(slope) > before[k]:
                live[n, k] = False
            elif not low and not high:
                worst[k] = max(worst[k], abs(slope))
                new = old - slope / (squares[n] + softness[n, k])
                new = min(max(new, np.float32(0)), limits[n, k])
                alpha[n, k] = new
                _add((new - old) * y[n, k], rows[n], constant, w[k])


@kernel(fastmath=REORDERED)
def _score(row: np.ndarray, constant: np.float32, w: np.ndarray) -> np.float32:
    """w [D+1] · (row [D], constant)."""
    features = len(row)
    total = constant * w[features]
    for d in range(features):
        total += row[d] * w[d]
    return total


@kernel(fastmath=REORDERED)
def _add(factor: np.float32, row: np.ndarray, constant: np.float32, w: np.ndarray) -> None:
    """w [D+1] += factor · (row [D], constant)."""
    features = len(row)
    for d in range(features):
        w[d] += factor * row[d]
    w[features] += factor * constant
