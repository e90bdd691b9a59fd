"""SVMs with the squared hinge by Newton's method on the primal problem (Keerthi and DeCoste 2005), in matrix products
over all samples and classes: the solver for GPUs.

Newton directions come from conjugate gradients; along them the objective is minimised exactly. The duality gap is half
the squared gradient here, and stops the search. Letters: N samples, D features, K classes.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from rcnn.errors import RCNNError
from rcnn.heads.svm_objective import Objective, dot

# Conjugate gradients end when the residual has shrunk to this part of the gradient, or after so many steps.
FORCING, CG_STEPS = 0.1, 50
NEWTON_STEPS = 100
# The line search ends when the slope has shrunk to this part of what it was, or after so many steps.
FLAT, SEARCH_STEPS = 1e-3, 30


def solve(objective: Objective, tolerance: float) -> Tensor:
    """w [K, D+1] whose duality gap is at most `tolerance` times the objective, in every class.

    Args:
        objective: of the squared hinge, on any device.
        tolerance: a share.

    Raises:
        RCNNError: the features are not finite.
    """
    rows, classes = objective.rows, objective.y.shape[1]
    w, scores = rows.new_zeros(classes, rows.shape[1] + 1), torch.zeros_like(objective.costs)
    live = torch.arange(classes, device=rows.device)  # the classes that are not there yet
    for _ in range(NEWTON_STEPS):
        part = objective.of(live)
        errors = part.errors(scores[:, live])
        gradient = gradient_of(part, w[live], errors)
        gap = 0.5 * dot(gradient, gradient)
        if not bool(torch.isfinite(gap).all()):
            raise RCNNError("the SVMs cannot be fitted: the features hold values that are not finite")
        far = gap > tolerance * part.value(w[live], errors)
        live, gradient, errors = live[far], gradient[far], errors[:, far]
        if not len(live):
            return w
        part = objective.of(live)
        step = _newton_direction(part, errors, gradient)
        change = part.scores(step)
        length = _line_search(part, w[live], step, scores[:, live], change)
        w[live] += length[:, None] * step
        scores[:, live] += length * change
    warnings.warn(f"{len(live)} SVMs stopped short of the tolerance {tolerance}", stacklevel=3)
    return w


def gradient_of(objective: Objective, w: Tensor, errors: Tensor) -> Tensor:
    """The objective's gradient [K, D+1] at w [K, D+1] with its errors [N, K]."""
    return w - _weighted_rows(objective, 2 * objective.costs * errors * objective.y)


def curved(objective: Objective, errors: Tensor, direction: Tensor) -> Tensor:
    """(I + 2 Xᵀ diag(costs where errors [N, K]) X) direction, the product with the second derivative, [K, D+1]."""
    inside = 2 * objective.costs * (errors > 0)
    return direction + _weighted_rows(objective, inside * objective.scores(direction))


def _weighted_rows(objective: Objective, weights: Tensor) -> Tensor:
    """Sums [K, D+1] of the samples by weights [N, K]."""
    return torch.cat((weights.T @ objective.rows, objective.constant * weights.sum(0)[:, None]), 1)


def _newton_direction(objective: Objective, errors: Tensor, gradient: Tensor) -> Tensor:
    """Solves `curved(step) = −gradient` for the step [K, D+1] by conjugate gradients, each class at its own pace."""
    step, residual = torch.zeros_like(gradient), -gradient
    direction, size = residual.clone(), dot(residual, residual)
    enough = FORCING**2 * size
    for _ in range(CG_STEPS):
        bent = curved(objective, errors, direction)
        length = torch.where(size > enough, size / dot(direction, bent), 0.0).float()[:, None]
        step += length * direction
        residual -= length * bent
        new = dot(residual, residual)
        if bool((new <= enough).all()):
            break
        direction = residual + (new / size).float()[:, None] * direction
        size = new
    return step


def _line_search(objective: Objective, w: Tensor, step: Tensor, scores: Tensor, change: Tensor) -> Tensor:
    """How far [K] along `step` [K, D+1], which changes the scores [N, K] by `change`, the objective is least.

    The slope along a line is piecewise linear and grows: Newton's method finds its root, bisection keeps it safe.
    """
    linear, square = dot(w, step), dot(step, step)
    turn = objective.y * change
    low, high = torch.zeros_like(linear), torch.full_like(linear, float("inf"))
    length, first = torch.ones_like(linear), None
    for _ in range(SEARCH_STEPS):
        pull = 2 * objective.costs * objective.errors(scores + length.float() * change)
        slope = linear + length * square - (pull * turn).sum(0, dtype=torch.float64)
        first = slope.abs() if first is None else first
        if bool((slope.abs() <= FLAT * first).all()):
            break
        rise = square + (2 * objective.costs * (pull > 0) * turn.square()).sum(0, dtype=torch.float64)
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        newton = length - slope / rise
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where((newton > low) & (newton < high), newton, middle)
    return length.float()
