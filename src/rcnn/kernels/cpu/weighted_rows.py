"""Sums over weighted rows on the CPU: each row is read from memory once, for the classes that give it a weight.

Near the optimum of a support vector machine nine of ten weights are 0, and the dense products would spend nine tenths
of their time on them. Letters: N rows, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.cpu.threads import kernel, run, spans

# A sum's terms may be added in any order, so that its loop vectorises.
REORDERED = {"reassoc", "contract", "nsz"}


def row_sum(rows: Tensor, weights: Tensor, constant: float) -> Tensor:
    """Sums [K, D+1] of rows [N, D] by weights [N, K]; see `rcnn.kernels.row_sum`."""
    parts = spans(len(rows), least=64)
    totals = torch.zeros(len(parts), weights.shape[1], rows.shape[1] + 1)
    table, factors = rows.contiguous().numpy(), weights.contiguous().numpy()
    arguments = zip(parts, totals.numpy(), strict=True)
    run([(_row_sum, table, factors, np.float32(constant), *part, total) for part, total in arguments])
    return totals.sum(0)


def gram_product(rows: Tensor, weights: Tensor, vectors: Tensor, constant: float) -> Tensor:
    """Products [K, D+1] of rows [N, D], weights [N, K] and vectors [K, D+1]; see `rcnn.kernels.gram_product`."""
    parts = spans(len(rows), least=64)
    totals = torch.zeros(len(parts), *vectors.shape)
    table, factors, given = rows.contiguous().numpy(), weights.contiguous().numpy(), vectors.contiguous().numpy()
    arguments = zip(parts, totals.numpy(), strict=True)
    run([(_gram_product, table, factors, given, np.float32(constant), *part, total) for part, total in arguments])
    return totals.sum(0)


@kernel(fastmath=REORDERED)
def _row_sum(
    rows: np.ndarray,  # [N, D]
    weights: np.ndarray,  # [N, K]
    constant: np.float32,
    first: int,
    last: int,
    total: np.ndarray,  # [K, D+1], added to
) -> None:
    for n in range(first, last):
        for k in range(weights.shape[1]):
            if weights[n, k] != 0:
                _add(weights[n, k], rows[n], constant, total[k])


@kernel(fastmath=REORDERED)
def _gram_product(
    rows: np.ndarray,  # [N, D]
    weights: np.ndarray,  # [N, K]
    vectors: np.ndarray,  # [K, D+1]
    constant: np.float32,
    first: int,
    last: int,
    total: np.ndarray,  # [K, D+1], added to
) -> None:
    features = rows.shape[1]
    for n in range(first, last):
        row = rows[n]
        for k in range(weights.shape[1]):
            if weights[n, k] != 0:
                vector = vectors[k]
                product = constant * vector[features]
                for d in range(features):
                    product += row[d] * vector[d]
                _add(weights[n, k] * product, row, constant, total[k])


@kernel(fastmath=REORDERED)
def _add(factor: np.float32, row: np.ndarray, constant: np.float32, total: np.ndarray) -> None:
    """total [D+1] += factor · (row [D], constant)."""
    features = len(row)
    for d in range(features):
        total[d] += factor * row[d]
    total[features] += factor * constant
