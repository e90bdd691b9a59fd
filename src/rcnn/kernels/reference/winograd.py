"""Winograd's transforms in numpy, tile after tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.kernels.winograd import PATCH, PATCHES, PRODUCTS, TILE


def places(first: int, count: int, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Image, row and column of the first output of `count` tiles of a map [B, H, W, ·]."""
    rows, columns = -(-shape[1] // TILE), -(-shape[2] // TILE)
    numbers = range(first, first + count)
    return [(n // (rows * columns), n // columns % rows * TILE, n % columns * TILE) for n in numbers]


def winograd_patches(x: np.ndarray, first: int, patches: np.ndarray) -> None:
    """Transforms the patches of so many tiles from `first` on as `patches` float32 [36, t, C] has room for.

    `x` is the map, float32 [B, H, W, C], zero beyond its edge.
    """
    matrix = np.array(PATCHES, np.float32)
    for slot, (image, top, left) in enumerate(places(first, patches.shape[1], x.shape)):
        patch = np.zeros((PATCH, PATCH, x.shape[3]), np.float32)
        rows, columns = slice(max(top - 1, 0), top + TILE + 1), slice(max(left - 1, 0), left + TILE + 1)
        inside = x[image, rows, columns]
        patch[rows.start - top + 1 :, columns.start - left + 1 :][: inside.shape[0], : inside.shape[1]] = inside
        patches[:, slot] = np.einsum("ai,ijc,bj->abc", matrix, patch, matrix).reshape(PATCH * PATCH, -1)


def winograd_tiles(
    products: Sequence[np.ndarray], bias: np.ndarray, first: int, y: np.ndarray, rectified: bool
) -> None:
    """Transforms 36 products float32 [t, K] back to the outputs of t tiles from `first` on, and adds the bias [K].

    They are written into the map `y`, float32 [B, H, W, K]; where `rectified`, negative ones become zero.
    """
    matrix = np.array(PRODUCTS, np.float32)
    for slot, (image, top, left) in enumerate(places(first, len(products[0]), y.shape)):
        placed = np.stack([product[slot] for product in products]).reshape(PATCH, PATCH, -1)
        tile = np.einsum("ai,ijk,bj->abk", matrix, placed, matrix) + bias
        inside = y[image, top : top + TILE, left : left + TILE]
        inside[:] = (np.maximum(tile, 0) if rectified else tile)[: inside.shape[0], : inside.shape[1]]


def winograd_spread(gradient: np.ndarray, first: int, spread: np.ndarray) -> None:
    """The gradients float32 [36, t, K] by the products of t tiles from `first` on, by those of the map [B, H, W, K]."""
    matrix = np.array(PRODUCTS, np.float32)
    for slot, (image, top, left) in enumerate(places(first, spread.shape[1], gradient.shape)):
        tile = np.zeros((TILE, TILE, gradient.shape[3]), np.float32)
        inside = gradient[image, top : top + TILE, left : left + TILE]
        tile[: inside.shape[0], : inside.shape[1]] = inside
        spread[:, slot] = np.einsum("ia,ijk,jb->abk", matrix, tile, matrix).reshape(PATCH * PATCH, -1)
