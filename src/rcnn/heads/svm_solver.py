"""Linear support vector machines of all classes at once. Letters: N samples, D features, K classes."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from rcnn.heads import svm_dual, svm_newton
from rcnn.heads.svm_objective import Loss, Objective


def fit(
    features: Tensor,
    targets: Tensor,
    *,
    C: float = 1e-3,
    positive_weight: float = 2.0,
    bias_scale: float = 10.0,
    loss: Loss = "squared_hinge",
    tolerance: float = 5e-4,
) -> tuple[Tensor, Tensor]:
    """K linear SVMs.

    The objective of a class is that of scikit-learn's LinearSVC with `class_weight={1: positive_weight}` and
    `intercept_scaling=bias_scale`: `½(|w|² + (b/bias_scale)²) + C Σ cₙ loss(1 − yₙ(w·xₙ + b))`, cₙ = `positive_weight`
    for positives, else 1. On the CPU it is minimised by coordinate descent on the dual problem, on a GPU by Newton's
    method on the primal one, which is for the squared hinge only: with the hinge features are brought to the CPU.

    Args:
        features: [N, D]; worked on in float32.
        targets: [K, N] int8: 1 positive, -1 negative, 0 not of this class's problem.
        C: weight of the errors.
        positive_weight: how many times more an error on a positive weighs.
        bias_scale: the constant feature whose weight is the bias; the larger, the less the bias is shrunk.
        loss: "squared_hinge" is max(0, m)²; "hinge", max(0, m), is that of R-CNN's code (liblinear's solver 3).
        tolerance: each class's objective exceeds its minimum by at most this part of it.

    Returns:
        weight [K, D] and bias [K], float32, on the device of the features.

    Raises:
        RCNNError: the features are not finite.
    """
    device = features.device
    newton = loss == "squared_hinge" and (device.type != "cpu" or find_spec("numba") is None)
    place = device if newton else torch.device("cpu")
    rows = features.detach().to(place, torch.float32).contiguous()
    y = targets.T.to(place, torch.float32)  # [N, K]
    costs = C * torch.where(y > 0, positive_weight, 1.0) * y.abs()  # [N, K]
    objective = Objective(rows, bias_scale, y, costs, loss)
    w = (svm_newton if newton else svm_dual).solve(objective, tolerance).to(device)
    return w[:, :-1].contiguous(), w[:, -1] * bias_scale
