"""Dual coordinate descent for linear SVMs of many classes (Hsieh et al. 2008), one pass over the samples.

Letters: N samples, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnn.kernels.forms import array_form


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
    more. The result does not depend on the number of threads.
    """
    before = np.where(problem.worst > 0, problem.worst, np.inf).astype(np.float32)
    problem.worst[classes] = 0
    array_form().descend(problem, order, classes, before)
