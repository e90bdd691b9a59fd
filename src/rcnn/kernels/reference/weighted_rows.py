"""Sums over weighted rows, spelled out: two matrix products over all rows and classes."""

from __future__ import annotations

import torch
from torch import Tensor


def row_sum(rows: Tensor, weights: Tensor, constant: float) -> Tensor:
    """Sums [K, D+1] of rows [N, D] by weights [N, K]; see `rcnn.kernels.row_sum`."""
    return torch.cat((weights.T @ rows, constant * weights.sum(0)[:, None]), 1)


def gram_product(rows: Tensor, weights: Tensor, vectors: Tensor, constant: float) -> Tensor:
    """Products [K, D+1] of rows [N, D], weights [N, K] and vectors [K, D+1]; see `rcnn.kernels.gram_product`."""
    products = torch.addmm(constant * vectors[:, -1], rows, vectors[:, :-1].T)  # [N, K]
    return row_sum(rows, weights * products, constant)
