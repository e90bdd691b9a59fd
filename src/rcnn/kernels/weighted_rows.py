"""Sums over weighted rows for many classes at once: what a linear classifier's gradient and curvature are made of.

Rows are those of a feature matrix X with a constant feature behind the others, for the bias. On the CPU rows of weight
0 cost nothing. Letters: N rows, D features, K classes.
"""

from __future__ import annotations

from torch import Tensor

from rcnn.kernels.forms import form


def row_sum(rows: Tensor, weights: Tensor, *, constant: float) -> Tensor:
    """Xᵀ a for each class's weights a: the sum of its weighted rows.

    Args:
        rows: X without the constant feature, [N, D] float32.
        weights: [N, K] float32.
        constant: value of the constant feature.

    Returns:
        [K, D+1] float32, the constant feature's sum last.
    """
    return form(rows.device.type).row_sum(rows, weights, constant)


def gram_product(rows: Tensor, weights: Tensor, vectors: Tensor, *, constant: float) -> Tensor:
    """Xᵀ diag(a) X v for each class's weights a and vector v.

    Args:
        rows: X without the constant feature, [N, D] float32.
        weights: [N, K] float32.
        vectors: [K, D+1] float32, the constant feature's coordinate last.
        constant: value of the constant feature.

    Returns:
        [K, D+1] float32.
    """
    return form(rows.device.type).gram_product(rows, weights, vectors, constant)
