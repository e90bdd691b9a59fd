"""Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016): 3×3 convolutions with 36 products for 16 outputs.

A 3×3 convolution of stride 1 cuts its output into tiles of 4×4; each reads a patch of 6×6, which is transformed,
multiplied with the transformed weights by one matrix product for each of the 36 places, and transformed back: 2.25
products an output where the plain sum has 9. The gradient by the weights is the same in reverse.
Letters: B images, C channels in, K out, H W height and width, T = B · ⌈H/4⌉ · ⌈W/4⌉ tiles, images outermost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rcnn.kernels.forms import array_form

TILE, PATCH = 4, 6

# The points 0, ±3/4, ±3/2 and infinity, whose powers float32 holds exactly. The usual 0, ±1, ±2 spare some products in
# the transforms but spread their coefficients wider: twice the error in the mean, four times at worst.
NEAR, FAR = 0.75, 1.5
_NEAR2, _FAR2 = NEAR**2, FAR**2
_BOTH, _SUM = _NEAR2 * _FAR2, _NEAR2 + _FAR2
_OF_NEAR, _OF_FAR = 2 * _NEAR2 * (_NEAR2 - _FAR2), 2 * _FAR2 * (_FAR2 - _NEAR2)

# The transforms of patches, weights and products.
PATCHES = (
    (_BOTH, 0, -_SUM, 0, 1, 0),
    (0, -NEAR * _FAR2, -_FAR2, NEAR, 1, 0),
    (0, NEAR * _FAR2, -_FAR2, -NEAR, 1, 0),
    (0, -FAR * _NEAR2, -_NEAR2, FAR, 1, 0),
    (0, FAR * _NEAR2, -_NEAR2, -FAR, 1, 0),
    (0, _BOTH, 0, -_SUM, 0, 1),
)
WEIGHTS = (
    (1 / _BOTH, 0, 0),
    (1 / _OF_NEAR, NEAR / _OF_NEAR, _NEAR2 / _OF_NEAR),
    (1 / _OF_NEAR, -NEAR / _OF_NEAR, _NEAR2 / _OF_NEAR),
    (1 / _OF_FAR, FAR / _OF_FAR, _FAR2 / _OF_FAR),
    (1 / _OF_FAR, -FAR / _OF_FAR, _FAR2 / _OF_FAR),
    (0, 0, 1),
)
PRODUCTS = (
    (1, 1, 1, 1, 1, 0),
    (0, NEAR, -NEAR, FAR, -FAR, 0),
    (0, _NEAR2, _NEAR2, _FAR2, _FAR2, 0),
    (0, NEAR**3, -(NEAR**3), FAR**3, -(FAR**3), 1),
)


# So many tiles at once at most: their patches and products stay in the last cache. Fewer are not worth cutting in two.
TILES, FEWEST, STEP = 192, 64, 16


def winograd_weights(weight: Tensor) -> Tensor:
    """The weights [K, C, 3, 3] for each of the 36 places of a patch: [36, K, C], rounded once, from float64."""
    placed = _weights_matrix() @ weight.detach().double().flatten(2).flatten(0, 1).T  # [36, K·C]
    return placed.to(weight.dtype).unflatten(1, weight.shape[:2])


def winograd_convolve(
    x: Tensor, multiply: Callable[[Tensor], Iterable[Tensor]], bias: Tensor, *, rectified: bool = False
) -> Tensor:
    """The convolution of a map with padding 1.

    Args:
        x: [B, C, H, W] float32 on the CPU, read fastest where channels-last.
        multiply: patches [36, t, C] of some tiles to the 36 products [t, K] with `winograd_weights`.
        bias: [K], is added.
        rectified: whether negative outputs become zero.

    Returns:
        [B, K, H, W], channels-last.
    """
    pixels = x.permute(0, 2, 3, 1).contiguous()  # [B, H, W, C]
    y = torch.empty(*pixels.shape[:3], len(bias))
    form = array_form()

    @torch.no_grad()  # which another thread does not know of
    def convolve(first: int, count: int) -> None:
        patches = torch.empty(PATCH * PATCH, count, pixels.shape[3])
        form.winograd_patches(pixels.numpy(), first, patches.numpy())
        products = [product.numpy() for product in multiply(patches)]
        form.winograd_tiles(products, bias.numpy(), first, y.numpy(), rectified)

    form.run([(convolve, *group) for group in _groups(pixels, torch.get_num_threads())], operators=True)
    return y.permute(0, 3, 1, 2)


def winograd_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient [K, C, 3, 3] by the weights, for a map [B, C, H, W] and the gradient [B, K, H, W] of its output."""
    pixels, outputs = (map_.permute(0, 2, 3, 1).contiguous() for map_ in (x, gradient))
    placed = torch.zeros(PATCH * PATCH, outputs.shape[3], pixels.shape[3])
    for first, count in _groups(pixels):
        patches, spread = (torch.empty(PATCH * PATCH, count, map_.shape[3]) for map_ in (pixels, outputs))
        array_form().winograd_patches(pixels.numpy(), first, patches.numpy())
        array_form().winograd_spread(outputs.numpy(), first, spread.numpy())
        torch.baddbmm(placed, spread.transpose(1, 2), patches, out=placed)
    taken = placed.flatten(1).T @ _weights_matrix().float()  # [K·C, 9]
    return taken.view(*placed.shape[1:], 3, 3)


def _weights_matrix() -> Tensor:
    """The transform of a weight's nine numbers as one matrix [36, 9] float64."""
    g = torch.tensor(WEIGHTS, dtype=torch.float64)
    return torch.kron(g, g)


def _groups(pixels: Tensor, threads: int = 1) -> list[tuple[int, int]]:
    """The first tile and the number of tiles of each group of a map [B, H, W, ·], as many groups for each thread.

    All numbers but the last are multiples of `STEP`: weights are packed anew for each number that has not come yet.
    """
    tiles = pixels.shape[0] * -(-pixels.shape[1] // TILE) * -(-pixels.shape[2] // TILE)
    groups = max(1, min(-(-tiles // (TILES * threads)) * threads, tiles // FEWEST))
    edges = [*sorted({tiles * group // groups // STEP * STEP for group in range(groups)}), tiles]
    return [(first, last - first) for first, last in itertools.pairwise(edges)]
