"""Winograd's transforms on the CPU: the inner loops run over channels, which lie side by side, and vectorise.

A transform is two passes, down the columns and along the rows of a patch; what is between them stays in the first
cache, for it is done for few channels at a time. Letters: C channels in, K out, T tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.kernels.cpu.threads import kernel, run, spans
from rcnn.kernels.winograd import FAR, NEAR, PATCH, TILE

# Channels that are transformed at once: 36 × 128 floats between the passes are 18 KiB.
WIDTH = 128


def winograd_patches(x: np.ndarray, first: int, patches: np.ndarray) -> None:
    """Patches [36, t, C] of x [B, H, W, C], as of the reference; threads share out the tiles."""
    run([(_patches, x, first, patches, start, end) for start, end in spans(patches.shape[1], least=8)])


def winograd_tiles(
    products: Sequence[np.ndarray], bias: np.ndarray, first: int, y: np.ndarray, rectified: bool
) -> None:
    """Outputs y [B, H, W, K] of 36 products [t, K], as of the reference; threads share out the tiles."""
    floor, places = np.float32(0 if rectified else -np.inf), tuple(products)
    run([(_tiles, places, bias, first, y, floor, start, end) for start, end in spans(len(places[0]), least=8)])


def winograd_spread(gradient: np.ndarray, first: int, spread: np.ndarray) -> None:
    """What gradients [B, H, W, K] say of products [36, t, K], as of the reference; threads share out the tiles."""
    run([(_spread, gradient, first, spread, start, end) for start, end in spans(spread.shape[1], least=8)])


@kernel(fastmath={"contract"})
def _patches(x: np.ndarray, first: int, patches: np.ndarray, start: int, end: int) -> None:
    height, width, channels = x.shape[1:]
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    between = np.empty((PATCH, PATCH, WIDTH), np.float32)
    nothing = np.zeros(WIDTH, np.float32)
    for slot in range(start, end):
        tile = first + slot
        image, top, left = tile // (rows * columns), tile // columns % rows * TILE - 1, tile % columns * TILE - 1
        for low in range(0, channels, WIDTH):
            some = min(WIDTH, channels - low)
            for j in range(PATCH):
                column = left + j
                beside = column < 0 or column >= width
                d0 = nothing if beside or top < 0 else x[image, top, column, low:]
                d1 = nothing if beside or top + 1 >= height else x[image, top + 1, column, low:]
                d2 = nothing if beside or top + 2 >= height else x[image, top + 2, column, low:]
                d3 = nothing if beside or top + 3 >= height else x[image, top + 3, column, low:]
                d4 = nothing if beside or top + 4 >= height else x[image, top + 4, column, low:]
                d5 = nothing if beside or top + 5 >= height else x[image, top + 5, column, low:]
                _patch_line(d0, d1, d2, d3, d4, d5, between[:, j], some)
            for i in range(PATCH):
                b = between[i]
                out = patches[i * PATCH : (i + 1) * PATCH, slot, low:]
                _patch_line(b[0], b[1], b[2], b[3], b[4], b[5], out, some)


@kernel(fastmath={"contract"})
def _patch_line(
    d0: np.ndarray,
    d1: np.ndarray,
    d2: np.ndarray,
    d3: np.ndarray,
    d4: np.ndarray,
    d5: np.ndarray,
    out: np.ndarray,
    some: int,
) -> None:
    """out [6, …] = PATCHES · d, for the first channels."""
    near, far, near2, far2 = np.float32(NEAR), np.float32(FAR), np.float32(NEAR**2), np.float32(FAR**2)
    both, sum2 = near2 * far2, near2 + far2
    for c in range(some):
        even, odd = d4[c] - far2 * d2[c], near * (d3[c] - far2 * d1[c])
        more_even, more_odd = d4[c] - near2 * d2[c], far * (d3[c] - near2 * d1[c])
        out[0, c] = both * d0[c] - sum2 * d2[c] + d4[c]
        out[1, c] = even + odd
        out[2, c] = even - odd
        out[3, c] = more_even + more_odd
        out[4, c] = more_even - more_odd
        out[5, c] = both * d1[c] - sum2 * d3[c] + d5[c]


@kernel(fastmath={"contract"})
def _tiles(
    products: tuple[np.ndarray, ...], bias: np.ndarray, first: int, y: np.ndarray, floor: float, start: int, end: int
) -> None:
    height, width, channels = y.shape[1:]
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    between = np.empty((TILE, PATCH, WIDTH), np.float32)
    line = np.empty((TILE, WIDTH), np.float32)
    for slot in range(start, end):
        tile = first + slot
        image, top, left = tile // (rows * columns), tile // columns % rows * TILE, tile % columns * TILE
        for low in range(0, channels, WIDTH):
            some = min(WIDTH, channels - low)
            for j in range(PATCH):
                p0, p1, p2 = products[j][slot], products[PATCH + j][slot], products[2 * PATCH + j][slot]
                p3, p4, p5 = products[3 * PATCH + j][slot], products[4 * PATCH + j][slot], products[5 * PATCH + j][slot]
                _tile_line(p0[low:], p1[low:], p2[low:], p3[low:], p4[low:], p5[low:], between[:, j], some)
            for i in range(min(TILE, height - top)):
                b = between[i]
                _tile_line(b[0], b[1], b[2], b[3], b[4], b[5], line, some)
                for j in range(min(TILE, width - left)):
                    out = y[image, top + i, left + j, low:]
                    for c in range(some):
                        out[c] = max(line[j, c] + bias[low + c], floor)


@kernel(fastmath={"contract"})
def _tile_line(
    p0: np.ndarray,
    p1: np.ndarray,
    p2: np.ndarray,
    p3: np.ndarray,
    p4: np.ndarray,
    p5: np.ndarray,
    out: np.ndarray,
    some: int,
) -> None:
    """out [4, …] = PRODUCTS · p, for the first channels."""
    near, far, near2, far2 = np.float32(NEAR), np.float32(FAR), np.float32(NEAR**2), np.float32(FAR**2)
    for c in range(some):
        even, more_even = p1[c] + p2[c], p3[c] + p4[c]
        odd, more_odd = near * (p1[c] - p2[c]), far * (p3[c] - p4[c])
        out[0, c] = p0[c] + even + more_even
        out[1, c] = odd + more_odd
        out[2, c] = near2 * even + far2 * more_even
        out[3, c] = near2 * odd + far2 * more_odd + p5[c]


@kernel(fastmath={"contract"})
def _spread(gradient: np.ndarray, first: int, spread: np.ndarray, start: int, end: int) -> None:
    height, width, channels = gradient.shape[1:]
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    between = np.empty((PATCH, TILE, WIDTH), np.float32)
    nothing = np.zeros(WIDTH, np.float32)
    for slot in range(start, end):
        tile = first + slot
        image, top, left = tile // (rows * columns), tile // columns % rows * TILE, tile % columns * TILE
        for low in range(0, channels, WIDTH):
            some = min(WIDTH, channels - low)
            for j in range(TILE):
                column = left + j
                beside = column >= width
                d0 = nothing if beside else gradient[image, top, column, low:]
                d1 = nothing if beside or top + 1 >= height else gradient[image, top + 1, column, low:]
                d2 = nothing if beside or top + 2 >= height else gradient[image, top + 2, column, low:]
                d3 = nothing if beside or top + 3 >= height else gradient[image, top + 3, column, low:]
                _spread_line(d0, d1, d2, d3, between[:, j], some)
            for i in range(PATCH):
                b = between[i]
                _spread_line(b[0], b[1], b[2], b[3], spread[i * PATCH : (i + 1) * PATCH, slot, low:], some)


@kernel(fastmath={"contract"})
def _spread_line(d0: np.ndarray, d1: np.ndarray, d2: np.ndarray, d3: np.ndarray, out: np.ndarray, some: int) -> None:
    """out [6, …] = PRODUCTSᵀ · d, for the first channels."""
    near, far, near2, far2 = np.float32(NEAR), np.float32(FAR), np.float32(NEAR**2), np.float32(FAR**2)
    for c in range(some):
        even, odd = d0[c] + near2 * d2[c], near * (d1[c] + near2 * d3[c])
        more_even, more_odd = d0[c] + far2 * d2[c], far * (d1[c] + far2 * d3[c])
        out[0, c] = d0[c]
        out[1, c] = even + odd
        out[2, c] = even - odd
        out[3, c] = more_even + more_odd
        out[4, c] = more_even - more_odd
        out[5, c] = d3[c]
