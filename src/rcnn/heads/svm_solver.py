"""Linear support vector machines of all classes at once, by Newton's method on the primal problem
(Keerthi and DeCoste 2005; Chapelle 2007).

For each class, w with the bias as its last coordinate minimises `½|w|² + Σₙ cₙ loss(1 − yₙ w·xₙ)`. Newton directions
come from conjugate gradients, whose products look only at the rows inside the margin, for all classes in one reading of
the features; then the objective is minimised along them exactly. The stop is a proof: the duality gap bounds how far
the objective is from its minimum. Letters: N samples, D features, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rcnn.errors import RCNNError
from rcnn.kernels import gram_product, row_sum

Loss = Literal["squared_hinge", "hinge"]

# Each CG ends when the residual has shrunk to this part of the gradient, or after so many steps.
FORCING, CG_STEPS = 0.1, 50
NEWTON_STEPS = 200
# A cold start first looks at every so many-th sample, where there are at least so many.
STRIDE, FEWEST = 16, 4096
START_TOLERANCE = 1e-2


def fit(
    features: Tensor,
    targets: Tensor,
    *,
    C: float = 1e-3,
    positive_weight: float = 2.0,
    bias_scale: float = 10.0,
    loss: Loss = "squared_hinge",
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """K linear SVMs, on the device of the features.

    The objective of a class is that of liblinear and scikit-learn's LinearSVC with `class_weight={1: positive_weight}`
    and `intercept_scaling=bias_scale`: `½(|w|² + (b/bias_scale)²) + C Σ cₙ loss(1 − yₙ(w·xₙ + b))` with cₙ =
    `positive_weight` for positives and 1 for negatives; loss(m) is max(0, m)² or, for "hinge", max(0, m).

    Args:
        features: [N, D]; worked on in float32.
        targets: [K, N] int8: 1 positive, -1 negative, 0 not of this class's problem.
        C: weight of the errors.
        positive_weight: how many times more an error on a positive weighs.
        bias_scale: the value of the constant feature whose weight is the bias; the larger, the less the bias is shrunk.
        loss: "squared_hinge", or the "hinge" of R-CNN's code (liblinear's solver 3).
        start: weight [K, D] and bias [K] to start from.
        tolerance: each class's objective exceeds its minimum by at most this part.

    Returns:
        weight [K, D] and bias [K], float32.

    Raises:
        RCNNError: the features are not finite.
    """
    rows = features.float().contiguous()
    y = targets.T.to(rows.device, torch.float32)  # [N, K]
    costs = C * torch.where(y > 0, positive_weight, 1.0) * y.abs()  # [N, K]
    if start is None:
        w = _start(rows, y, costs, bias_scale, loss)
    else:
        w = torch.cat((start[0], start[1][:, None] / bias_scale), 1).float()
    w = _solve(_Problem(rows, y, costs, bias_scale, loss), w, tolerance)
    return w[:, :-1].contiguous(), w[:, -1] * bias_scale


def _start(rows: Tensor, y: Tensor, costs: Tensor, constant: float, loss: Loss) -> Tensor:
    """Where to start [K, D+1]: the solution for a few of the samples, each weighing for those that are left out."""
    if len(rows) < FEWEST:
        return rows.new_zeros(y.shape[1], rows.shape[1] + 1)
    few = slice(None, None, STRIDE)
    rows, y, costs = rows[few].contiguous(), y[few].contiguous(), STRIDE * costs[few]
    return _solve(_Problem(rows, y, costs, constant, loss), _start(rows, y, costs, constant, loss), START_TOLERANCE)


class _Problem:
    """The objectives of K classes, and their slope and curvature.

    The hinge is smoothed: quadratic over the `width` inside its margin, linear beyond (Chapelle 2007, section 2). With
    width ½ and no linear part that formula is the squared hinge.
    """

    def __init__(self, rows: Tensor, y: Tensor, costs: Tensor, constant: float, loss: Loss) -> None:
        self.rows, self.y, self.costs, self.constant = rows, y, costs, constant
        self.limit = 1.0 if loss == "hinge" else float("inf")
        self.width = rows.new_full((y.shape[1],), 1.0 if loss == "hinge" else 0.5)  # [K]

    def of(self, classes: Tensor) -> _Problem:
        """The problem of some classes only, given by index."""
        part = _Problem(self.rows, self.y[:, classes], self.costs[:, classes], self.constant, "hinge")
        part.limit, part.width = self.limit, self.width[classes]
        return part

    def scores(self, w: Tensor) -> Tensor:
        """[N, K] of w [K, D+1]."""
        return F.linear(self.rows, w[:, :-1], self.constant * w[:, -1])

    def slopes(self, errors: Tensor) -> Tensor:
        """The loss's derivative [N, K] at errors 1 − y w·x [N, K], times the costs."""
        return self.costs * (errors / self.width).clamp(0, self.limit)

    def curvatures(self, errors: Tensor) -> Tensor:
        """The loss's second derivative [N, K], times the costs."""
        return self.costs * ((errors > 0) & (errors < self.limit * self.width)) / self.width

    def state(self, w: Tensor, scores: Tensor) -> _State:
        """Slope, curvature and certificate at w [K, D+1] with its scores [N, K]."""
        errors = 1 - self.y * scores
        slopes = self.slopes(errors)
        gradient = w - row_sum(self.rows, slopes * self.y, constant=self.constant)
        objective = 0.5 * _dot(w, w) + (self.costs * self._losses(errors)).sum(0, dtype=torch.float64)
        return _State(errors, gradient, objective, 0.5 * _dot(gradient, gradient), self._smoothing(errors))

    def _losses(self, errors: Tensor) -> Tensor:
        """The loss itself, not smoothed, [N, K]."""
        return errors.clamp(min=0) if self.limit == 1 else errors.clamp(min=0).square()

    def _smoothing(self, errors: Tensor) -> Tensor:
        """What smoothing adds to the duality gap [K]: width · t(1 − t) where an error is t widths inside the margin."""
        if self.limit != 1:
            return torch.zeros_like(self.width, dtype=torch.float64)
        part = (errors / self.width).clamp(0, 1)
        return (self.costs * self.width * part * (1 - part)).sum(0, dtype=torch.float64)


@dataclass
class _State:
    """Errors [N, K], gradient [K, D+1], the objective [K], and the two parts of its duality gap [K].

    With the slopes as dual variables the gap of the smoothed problem is ½|gradient|².
    """

    errors: Tensor
    gradient: Tensor
    objective: Tensor
    gap: Tensor
    smoothing: Tensor


def _solve(problem: _Problem, w: Tensor, tolerance: float) -> Tensor:
    """w [K, D+1] with a duality gap of at most `tolerance` times the objective, in every class."""
    w, scores = w.clone(), problem.scores(w)
    live = torch.arange(len(w), device=w.device)
    for _ in range(NEWTON_STEPS):
        part, own, seen = problem.of(live), w[live], scores[:, live]
        state = part.state(own, seen)
        if not torch.isfinite(state.gap).all():
            raise RCNNError("SVMs cannot be fitted: the features hold values that are not finite")
        allowed = tolerance * state.objective
        solved = state.gap + state.smoothing <= allowed
        # The smoothed problem is solved well enough where its own part of the gap no longer stands out: narrow it.
        narrow = ~solved & (state.gap <= 0.25 * allowed) if problem.limit == 1 else torch.zeros_like(solved)
        wanted = (0.5 * allowed / state.smoothing.clamp(min=1e-30)).clamp(0.1, 0.5).float()
        problem.width[live[narrow]] *= wanted[narrow]
        moving = ~solved & ~narrow
        live = live[~solved]
        if not len(live):
            return w
        if moving.any():
            which, part = torch.nonzero(moving)[:, 0], part.of(torch.nonzero(moving)[:, 0])
            step = _newton_direction(part, state.errors[:, which], state.gradient[which])
            change = part.scores(step)
            length = _line_search(part, own[which], step, state.errors[:, which], change)
            here = torch.arange(len(solved), device=w.device)[which]
            own[here] += length[:, None] * step
            seen[:, here] += length * change
            kept = ~solved
            w[live], scores[:, live] = own[kept], seen[:, kept]
    warnings.warn(f"{len(live)} SVMs stopped short of their tolerance {tolerance}", stacklevel=3)
    return w


def _newton_direction(problem: _Problem, errors: Tensor, gradient: Tensor) -> Tensor:
    """[K, D+1] by conjugate gradients on (I + Xᵀ diag(curvatures) X) step = −gradient, each class at its own pace."""
    curvatures = problem.curvatures(errors)
    step, residual = torch.zeros_like(gradient), -gradient
    direction = residual.clone()
    size = _dot(residual, residual)
    enough = FORCING**2 * size
    for _ in range(CG_STEPS):
        bent = direction + gram_product(problem.rows, curvatures, direction, constant=problem.constant)
        length = torch.where(size > enough, size / _dot(direction, bent), 0.0).float()[:, None]
        step += length * direction
        residual -= length * bent
        new = _dot(residual, residual)
        if bool((new <= enough).all()):
            break
        direction = residual + (new / size).float()[:, None] * direction
        size = new
    return step


def _line_search(problem: _Problem, w: Tensor, step: Tensor, errors: Tensor, change: Tensor) -> Tensor:
    """How far [K] along `step` [K, D+1], which changes the scores by `change` [N, K], the objective is least.

    The derivative along a line is piecewise linear and grows: Newton's method finds its root, bisection keeps it safe.
    """
    linear, square = _dot(w, step), _dot(step, step)
    turn = -problem.y * change
    low, high = torch.zeros_like(linear), torch.full_like(linear, float("inf"))
    length = torch.ones_like(linear)
    first = None
    for _ in range(30):
        at = errors + length.float() * turn
        slope = linear + length * square + (problem.slopes(at) * turn).sum(0, dtype=torch.float64)
        rise = square + (problem.curvatures(at) * turn.square()).sum(0, dtype=torch.float64)
        first = slope.abs() if first is None else first
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        found = slope.abs() <= 1e-3 * first
        if bool(found.all()):
            break
        tried = length - slope / rise
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(found, length, torch.where((tried > low) & (tried < high), tried, middle))
    return length.float()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [K] in float64 of a and b, [K, D]."""
    return (a.double() * b.double()).sum(1)
