"""Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016): 3×3 convolutions with 36 products for 16 outputs.

A 3×3 convolution of stride 1 cuts its output into tiles of 4×4; each reads a patch of 6×6, which is transformed,
multiplied with the transformed weights by one matrix product for each of the 36 places, and transformed back: 2.25
products an output where the plain sum has 9. The matrix products are the caller's.
Letters: B images, C channels in, K out, H W height and width, T = B · ⌈H/4⌉ · ⌈W/4⌉ tiles, images outermost.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rcnn.kernels.forms import array_form

TILE, PATCH = 4, 6

# The transforms of patches, weights and products for the points 0, 1, −1, 2, −2 and infinity.
PATCHES = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
PRODUCTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


def winograd_weights(weight: Tensor) -> Tensor:
    """The weights [K, C, 3, 3] for each of the 36 places of a patch: [36, K, C], rounded once, from float64."""
    g = torch.tensor(WEIGHTS, dtype=torch.float64)
    placed = torch.einsum("ai,kcij,bj->abkc", g, weight.double(), g)
    return placed.reshape(PATCH * PATCH, *weight.shape[:2]).to(weight.dtype)


def winograd_patches(x: np.ndarray, first: int, patches: np.ndarray) -> None:
    """Transforms the patches of so many tiles from `first` on as `patches` has room for.

    Args:
        x: the map, float32 [B, H, W, C], zero beyond its edge.
        first: number of the first tile.
        patches: float32 [36, t, C], is written.
    """
    array_form().winograd_patches(x, first, patches)


def winograd_tiles(
    products: np.ndarray, bias: np.ndarray, first: int, y: np.ndarray, *, rectified: bool = False
) -> None:
    """Transforms products back to the outputs of t tiles from `first` on.

    Args:
        products: float32 [36, t, K].
        bias: float32 [K], is added.
        first: number of the first tile.
        y: the map, float32 [B, H, W, K], is written where the tiles are.
        rectified: whether negative outputs become zero.
    """
    array_form().winograd_tiles(products, bias, first, y, rectified)
