"""Dual coordinate descent for linear SVMs of many classes (Hsieh et al. 2008), one pass over the samples.

A sample is read from memory once for all classes that still look at it. Letters: N samples, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnn.kernels.cpu.threads import kernel, run, threads

# A sum's terms may be added in any order, so that its loop vectorises.
REORDERED = {"reassoc", "contract", "nsz"}


@dataclass
class Descent:
    """K problems and how far they are: minimise ½|w|² + Σₙ (½ softnessₙ αₙ² − αₙ) over 0 ≤ αₙ ≤ limitₙ, w = Σ αₙ yₙ xₙ.

    Attributes:
        rows: x without its constant feature, [N, D] float32; constant: that feature.
        squares: |x|², the constant feature included, [N] float32.
        y: [N, K] float32, ±1, or anything where `live` is false from the start.
        softness: [N, K] float32; limits: [N, K] float32.
        alpha: [N, K] float32.
        live: [N, K] bool, which α are looked at.
        w: [K, D+1] float32, the weight of the constant feature last.
        worst: [K] float32, the largest violation of the optimality conditions in the last pass; infinite before.
    """

    rows: np.ndarray
    constant: np.float32
    squares: np.ndarray
    y: np.ndarray
    softness: np.ndarray
    limits: np.ndarray
    alpha: np.ndarray
    live: np.ndarray
    w: np.ndarray
    worst: np.ndarray


def descend(problem: Descent, order: np.ndarray, classes: np.ndarray) -> None:
    """Minimises over each live α of `classes`, sample by sample in the `order` given, one after the other.

    An α that stands at an end of its range, held there by more than the last pass's worst violation, is looked at no
    more. The result does not depend on the number of threads: they share out the classes.
    """
    before = np.where(problem.worst > 0, problem.worst, np.inf).astype(np.float32)
    problem.worst[classes] = 0
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
