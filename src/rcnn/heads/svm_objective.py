"""What linear support vector machines minimise, for K classes at once.

`½|w|² + Σₙ cₙ loss(1 − yₙ w·xₙ)` for each class, the bias being the last coordinate of w and x. Letters: N samples, D
features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["hinge", "squared_hinge"]


@dataclass
class Objective:
    """The problems of K classes.

    Attributes:
        rows: x without the constant feature, [N, D] float32.
        constant: that feature's value.
        y: [N, K] float32: 1, -1, or 0 where a sample is not of a class's problem.
        costs: c, [N, K] float32, 0 there too.
        loss: max(0, m) or its square.
    """

    rows: Tensor
    constant: float
    y: Tensor
    costs: Tensor
    loss: Loss

    def of(self, classes: Tensor) -> Objective:
        """The problems of some classes only, given by index [k]."""
        return Objective(self.rows, self.constant, self.y[:, classes], self.costs[:, classes], self.loss)

    def scores(self, w: Tensor) -> Tensor:
        """w·x [N, K] of w [K, D+1]."""
        return F.linear(self.rows, w[:, :-1], self.constant * w[:, -1])

    def errors(self, scores: Tensor) -> Tensor:
        """How far inside the margin [N, K] samples of these scores [N, K] are; 0 outside it."""
        return (1 - self.y * scores).clamp(min=0)

    def value(self, w: Tensor, errors: Tensor) -> Tensor:
        """The objectives [K] in float64 at w [K, D+1] with its errors [N, K]."""
        losses = errors if self.loss == "hinge" else errors.square()
        return 0.5 * dot(w, w) + (self.costs * losses).sum(0, dtype=torch.float64)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [K] in float64 of a and b, both [K, D]."""
    return (a.double() * b.double()).sum(1)
