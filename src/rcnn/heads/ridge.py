"""Box regressors: for each class a ridge regression from a region's features to where its object is (Girshick et al.
2014, section 3.5 and appendix C).

For each class, with regions' features x and a constant 1 behind them, box targets t and their mean m,

    W = argmin Σₙ |xₙ W − (tₙ − m)|² + λ |W|²  =  (XᵀX + λI)⁻¹ Xᵀ(T − m)

The squares are summed, not averaged, so λ does not grow with the number of regions, and the constant's weights are
penalised too; both are the convention of R-CNN's code. (scikit-learn's Ridge sums as well, but leaves its intercept
alone.) That code whitens the targets before and reverts it after, which for one λ of all four is the same W: whitening
multiplies Xᵀ(T − m) by a matrix on the right, and its inverse cancels it. Letters: N regions that are learnt from,
R regions, F features, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.boxes import BoxCoder
from rcnn.errors import RCNNError

# λ of R-CNN's paper and code; SPP-net's code takes 4,000 (and regions of IoU > 0.5 in place of 0.6).
STRENGTH = 1000.0
# Features are scaled to this mean norm: λ is chosen for it.
NORM = 20.0
CODER = BoxCoder()


def fit(features: Tensor, goals: Tensor, *, strength: float = STRENGTH) -> tuple[Tensor, Tensor]:
    """One class's regressor, in closed form; see the head of this module for the convention.

    Args:
        features: [N, F].
        goals: [N, 4] box targets, of `BoxCoder()`.
        strength: λ.

    Returns:
        weight [4, F] and bias [4], float32, the mean target within the bias; zeros where N is 0.

    Raises:
        RCNNError: the features or goals are not finite.
    """
    sums = RidgeSums(features.shape[1])
    sums.add(features, goals)
    return sums.solve(strength)


class RidgeSums:
    """What one class's regressor needs of its regions, taken image by image.

    While there are fewer regions than features the regions themselves are kept, in float32, and the system of N
    equations is solved (the dual form); from then on only XᵀX, of 8 (F+1)² bytes. For more memory than that take one
    class after the other.

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        self._rows: list[Tensor] = []  # each [n, F+1]
        self._goals: list[Tensor] = []  # each [n, 4]
        self._held = 0
        self._gram: Tensor | None = None  # [F+1, F+1] float64
        self._product: Tensor | None = None  # Xᵀ (T, 1), [F+1, 5] float64
        self._columns = features + 1

    @property
    def count(self) -> int:
        """N, the regions so far."""
        summed = 0 if self._product is None else round(self._product[-1, -1].item())
        return summed + self._held

    def add(self, features: Tensor, goals: Tensor) -> None:
        """Takes regions: features [N, F] and goals [N, 4]."""
        if not len(features):
            return
        features = features.float()
        self._rows.append(torch.cat((features, features.new_ones(len(features), 1)), 1))
        self._goals.append(goals.to(features.device, torch.float64))
        self._held += len(features)
        if self._held >= self._columns:
            self._sum_up()

    def solve(self, strength: float = STRENGTH) -> tuple[Tensor, Tensor]:
        """weight [4, F] and bias [4] of λ = `strength`, from a float64 Cholesky factor; see `fit`."""
        if not self.count:
            return torch.zeros(4, self._columns - 1), torch.zeros(4)
        if self._gram is not None:
            self._sum_up()
        gram, product = self._gram, self._product
        if gram is not None and product is not None:
            mean = product[-1, :4] / product[-1, -1]  # [4]
            centred = product[:, :4] - product[:, 4:] * mean  # [F+1, 4]
            solution = _solve(gram, strength, centred)
        else:
            rows, goals = torch.cat(self._rows), torch.cat(self._goals)
            mean = goals.mean(0)
            rows = rows.double()
            solution = rows.T @ _solve(rows @ rows.T, strength, goals - mean)  # [F+1, 4]
        return solution[:-1].T.float().contiguous(), (solution[-1] + mean).float()

    def _sum_up(self) -> None:
        """Turns the regions held into sums."""
        if not self._held:
            return
        rows, goals = torch.cat(self._rows), torch.cat(self._goals)
        if self._gram is None or self._product is None:
            self._gram = rows.new_zeros(self._columns, self._columns, dtype=torch.float64)
            self._product = rows.new_zeros(self._columns, 5, dtype=torch.float64)
        self._gram += rows.T @ rows
        self._product += rows.double().T @ torch.cat((goals, goals.new_ones(len(goals), 1)), 1)
        self._rows, self._goals, self._held = [], [], 0


def _solve(gram: Tensor, strength: float, right: Tensor) -> Tensor:
    """(gram + λI)⁻¹ right, for gram [n, n] and right [n, 4], float64."""
    shifted = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if bool(failed) or not bool(torch.isfinite(right).all()):
        raise RCNNError("the box regressors cannot be fitted: the features hold values that are not finite")
    return torch.cholesky_solve(right, factor)


class RidgeBoxes(nn.Module):
    """Features and boxes of regions → their boxes for each class.

    Until they are fitted all weights are 0 and boxes stay where they are.

    Args:
        channels: F.
        classes: K.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, 4, channels))
        self.register_buffer("bias", torch.zeros(classes, 4))
        self.register_buffer("scale", torch.ones(()))  # times a feature's norm

    def set_norm(self, mean: float) -> None:
        """Scales features whose mean norm is `mean` to a mean norm of 20."""
        self.scale.fill_(NORM / max(mean, 1e-12))

    def take(self, label: int, sums: RidgeSums, strength: float = STRENGTH) -> None:
        """Fits the regressor of class `label` to regions whose features, scaled by `scale`, are in `sums`."""
        weight, bias = sums.solve(strength)
        self.weight[label], self.bias[label] = weight, bias

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Boxes [R, K, 4] of features [R, F] and boxes [R, 4], both in pixels."""
        scaled = features.float() * self.scale
        deltas = functional.linear(scaled, self.weight.flatten(0, 1), self.bias.flatten())  # [R, K·4]
        return CODER.decode(deltas.unflatten(1, (-1, 4)), boxes[:, None])
