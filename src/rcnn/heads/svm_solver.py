"""Linear support vector machines of all classes at once, by Newton's method on the primal problem (Keerthi and DeCoste
2005; Chapelle 2007).

For each class, w with the bias as its last coordinate minimises `½|w|² + Σₙ cₙ max(0, 1 − yₙ w·xₙ)²`. Newton directions
come from conjugate gradients, whose products look only at the samples inside the margin, for all classes in one reading
of the features; along them the objective is then minimised exactly. The stop is a proof: the duality gap, which is half
the squared gradient here, bounds how far the objective is from its minimum. Letters: N samples, D features, K classes.

R-CNN's code has the hinge itself (liblinear's solver 3), not its square. The two draw nearly the same boundary; the
square is smooth, which is what lets K problems of 4,096 unknowns be solved in seconds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rcnn.errors import RCNNError
from rcnn.kernels import gram_product, row_sum

# Conjugate gradients end when the residual has shrunk to this part of the gradient, or after so many steps.
FORCING, CG_STEPS = 0.1, 50
NEWTON_STEPS = 100
# The line search ends when the slope has shrunk to this part of what it was, or after so many steps.
FLAT, SEARCH_STEPS = 1e-3, 30
# A cold start first looks at every so many-th sample, where there are at least so many, and less closely.
STRIDE, FEWEST, START_TOLERANCE = 16, 4096, 1e-2


def fit(
    features: Tensor,
    targets: Tensor,
    *,
    C: float = 1e-3,
    positive_weight: float = 2.0,
    bias_scale: float = 10.0,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """K linear SVMs, on the device of the features.

    The objective of a class is that of scikit-learn's LinearSVC(loss="squared_hinge") with `class_weight={1:
    positive_weight}` and `intercept_scaling=bias_scale`:
    `½(|w|² + (b/bias_scale)²) + C Σ cₙ max(0, 1 − yₙ(w·xₙ + b))²`, cₙ = `positive_weight` for positives, else 1.

    Args:
        features: [N, D]; worked on in float32.
        targets: [K, N] int8: 1 positive, -1 negative, 0 not of this class's problem.
        C: weight of the errors.
        positive_weight: how many times more an error on a positive weighs.
        bias_scale: the constant feature whose weight is the bias; the larger, the less the bias is shrunk.
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
    problem = _Problem(rows, y, costs, bias_scale)
    w = _start(problem) if start is None else torch.cat((start[0], start[1][:, None] / bias_scale), 1).float()
    w = _solve(problem, w, tolerance)
    return w[:, :-1].contiguous(), w[:, -1] * bias_scale


@dataclass
class _Problem:
    """The objectives of K classes: rows [N, D], y [N, K] in ±1 or 0, costs [N, K], and the constant feature."""

    rows: Tensor
    y: Tensor
    costs: Tensor
    constant: float

    def of(self, classes: Tensor) -> _Problem:
        """The problem of some classes only, given by index."""
        return _Problem(self.rows, self.y[:, classes], self.costs[:, classes], self.constant)

    def scores(self, w: Tensor) -> Tensor:
        """[N, K] of w [K, D+1]."""
        return F.linear(self.rows, w[:, :-1], self.constant * w[:, -1])

    def errors(self, scores: Tensor) -> Tensor:
        """How far inside the margin [N, K] samples of these scores [N, K] are; 0 outside it."""
        return (1 - self.y * scores).clamp(min=0)

    def objective(self, w: Tensor, errors: Tensor) -> Tensor:
        """[K] float64 at w [K, D+1] with its errors [N, K]."""
        return 0.5 * _dot(w, w) + (self.costs * errors.square()).sum(0, dtype=torch.float64)

    def gradient(self, w: Tensor, errors: Tensor) -> Tensor:
        """[K, D+1] at w [K, D+1] with its errors [N, K]."""
        return w - row_sum(self.rows, 2 * self.costs * errors * self.y, constant=self.constant)

    def curved(self, errors: Tensor, direction: Tensor) -> Tensor:
        """The second derivative times a direction, [K, D+1]: (I + 2 Xᵀ diag(costs where errors) X) direction."""
        return direction + gram_product(self.rows, 2 * self.costs * (errors > 0), direction, constant=self.constant)


def _start(problem: _Problem) -> Tensor:
    """Where to start [K, D+1]: the solution for a few of the samples, each weighing for those that are left out."""
    rows, y = problem.rows, problem.y
    if len(rows) < FEWEST:
        return rows.new_zeros(y.shape[1], rows.shape[1] + 1)
    few = slice(None, None, STRIDE)
    part = _Problem(rows[few].contiguous(), y[few], STRIDE * problem.costs[few], problem.constant)
    return _solve(part, _start(part), START_TOLERANCE)


def _solve(problem: _Problem, w: Tensor, tolerance: float) -> Tensor:
    """w [K, D+1] with a duality gap of at most `tolerance` times the objective, in every class, from w [K, D+1]."""
    w, scores = w.clone(), problem.scores(w)
    live = torch.arange(len(w), device=w.device)  # the classes that are not there yet
    for _ in range(NEWTON_STEPS):
        part = problem.of(live)
        errors = part.errors(scores[:, live])
        gradient = part.gradient(w[live], errors)
        gap = 0.5 * _dot(gradient, gradient)
        if not bool(torch.isfinite(gap).all()):
            raise RCNNError("the SVMs cannot be fitted: the features hold values that are not finite")
        far = gap > tolerance * part.objective(w[live], errors)
        live, gradient, errors = live[far], gradient[far], errors[:, far]
        if not len(live):
            return w
        part = problem.of(live)
        step = _newton_direction(part, errors, gradient)
        change = part.scores(step)
        length = _line_search(part, w[live], step, scores[:, live], change)
        w[live] += length[:, None] * step
        scores[:, live] += length * change
    warnings.warn(f"{len(live)} SVMs stopped short of the tolerance {tolerance}", stacklevel=3)
    return w


def _newton_direction(problem: _Problem, errors: Tensor, gradient: Tensor) -> Tensor:
    """Solves `curved(step) = −gradient` for the step [K, D+1] by conjugate gradients, each class at its own pace."""
    step, residual = torch.zeros_like(gradient), -gradient
    direction, size = residual.clone(), _dot(residual, residual)
    enough = FORCING**2 * size
    for _ in range(CG_STEPS):
        curved = problem.curved(errors, direction)
        length = torch.where(size > enough, size / _dot(direction, curved), 0.0).float()[:, None]
        step += length * direction
        residual -= length * curved
        new = _dot(residual, residual)
        if bool((new <= enough).all()):
            break
        direction = residual + (new / size).float()[:, None] * direction
        size = new
    return step


def _line_search(problem: _Problem, w: Tensor, step: Tensor, scores: Tensor, change: Tensor) -> Tensor:
    """How far [K] along `step` [K, D+1], which changes the scores [N, K] by `change`, the objective is least.

    The slope along a line is piecewise linear and grows: Newton's method finds its root, bisection keeps it safe.
    """
    linear, square = _dot(w, step), _dot(step, step)
    turn = problem.y * change
    low, high = torch.zeros_like(linear), torch.full_like(linear, float("inf"))
    length, first = torch.ones_like(linear), None
    for _ in range(SEARCH_STEPS):
        pull = 2 * problem.costs * problem.errors(scores + length.float() * change)
        slope = linear + length * square - (pull * turn).sum(0, dtype=torch.float64)
        first = slope.abs() if first is None else first
        if bool((slope.abs() <= FLAT * first).all()):
            break
        rise = square + (2 * problem.costs * (pull > 0) * turn.square()).sum(0, dtype=torch.float64)
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        newton = length - slope / rise
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where((newton > low) & (newton < high), newton, middle)
    return length.float()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [K] in float64 of a and b, both [K, D]."""
    return (a.double() * b.double()).sum(1)
