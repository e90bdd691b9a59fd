"""Fully connected layers in two: the truncated SVD that makes Fast R-CNN's head faster (Girshick 2015, section 3.1).

A layer's weights W (v×u) are about U_t Σ_t V_tᵀ. Without a nonlinearity between them, a layer of weights Σ_t V_tᵀ and
no bias, and one of weights U_t and W's bias, do what W did, at t(u + v) multiplications in place of uv. Letters: u
inputs and v outputs of a layer, t the rank that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcnn.errors import UserError

# Columns of a weight matrix whose products are summed in float64 at once.
COLUMNS = 4096


def linear_layers(trunk: nn.Module) -> dict[str, nn.Linear]:
    """The fully connected layers of a box head's trunk by name, in the order in which features pass them."""
    return {name: layer for name, layer in trunk.named_modules() if isinstance(layer, nn.Linear)}


def split(trunk: nn.Module, ranks: Sequence[int]) -> None:
    """Puts two layers of rank t in place of each fully connected one, to be trained or filled from a model file.

    Args:
        trunk: changed in place.
        ranks: t of each layer, in order; 0 leaves a layer as it is, and so does a missing one.

    Raises:
        UserError: a rank that a layer cannot have, or more ranks than layers.
    """
    layers = linear_layers(trunk)
    for name, rank in chosen(trunk, ranks).items():
        trunk.set_submodule(name, nn.Sequential(*_pair(layers[name], rank)))


@torch.no_grad()
def compress(trunk: nn.Module, ranks: Sequence[int] = (), *, energy: float | None = None) -> tuple[int, ...]:
    """As `split`, but the two layers are the best approximation of the one that their rank allows.

    Args:
        trunk: changed in place.
        ranks: see `split`.
        energy: in place of ranks: the share of the sum of W's squared singular values that each layer's rank keeps at
            least. A layer is left as it is where two would not cost less.

    Returns:
        the rank of each fully connected layer, 0 where it was left.

    Raises:
        UserError: as of `split`.
    """
    layers = linear_layers(trunk)
    wanted = chosen(trunk, ranks)
    done = []
    for name, layer in layers.items():
        rank = wanted.get(name, 0)
        if energy is not None or rank:
            squares, vectors = _singular_vectors(layer.weight)
            if energy is not None:
                rank = _rank_of(squares, energy)
                rank = rank if saves(layer, rank) else 0
            if rank:
                trunk.set_submodule(name, _truncated(layer, vectors[:, :rank]))
        done.append(rank)
    return tuple(done)


def chosen(trunk: nn.Module, ranks: Sequence[int]) -> dict[str, int]:
    """Name and rank of the layers that `ranks` splits; errors as of `split`."""
    layers = linear_layers(trunk)
    if len(ranks) > len(layers):
        raise UserError(f"ranks {list(ranks)}: the box head has {len(layers)} fully connected layer(s)")
    for rank, layer in zip(ranks, layers.values(), strict=False):
        most = min(layer.in_features, layer.out_features)
        if not 0 <= rank <= most:
            kind = f"{layer.in_features}→{layer.out_features}"
            raise UserError(f"rank {rank} of the fully connected layer {kind}: expected 1 to {most}, or 0 to leave it")
    return {name: rank for name, rank in zip(layers, ranks, strict=False) if rank}


def saves(layer: nn.Linear, rank: int) -> bool:
    """Whether two layers of this rank cost less than the one."""
    inputs, outputs = layer.in_features, layer.out_features
    return rank * (inputs + outputs) < inputs * outputs


def _rank_of(squares: Tensor, energy: float) -> int:
    """The lowest rank that keeps the share `energy` of the sum of squared singular values [m], largest first."""
    kept = squares.cumsum(0)
    return min(int((kept < energy * kept[-1]).sum()) + 1, len(squares))


def _truncated(layer: nn.Linear, leading: Tensor) -> nn.Sequential:
    """The layer as two, by the t leading singular vectors [m, t] of W's shorter side m: none of rank t is nearer to W.

    They are projections: U_tᵀ W, which is Σ_t V_tᵀ, and U_t; or, where there are more outputs than inputs, V_tᵀ and
    W V_t, which is U_t Σ_t. So nothing is divided by a small singular value, and at full rank the pair is W itself.
    """
    weight, leading = layer.weight, leading.to(layer.weight)
    pair = _pair(layer, leading.shape[1])
    wide = weight.shape[0] <= weight.shape[1]
    first, second = (leading.T @ weight, leading) if wide else (leading.T, weight @ leading)
    for new, values in zip(pair, (first, second), strict=True):
        new.weight.copy_(values)
    if layer.bias is not None:
        pair[1].bias.copy_(layer.bias)
    return nn.Sequential(*pair)


def _pair(layer: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """Two new layers of the type and device of `layer`."""
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(layer.in_features, rank, bias=False, **like)
    return first, nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **like)


def _singular_vectors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values [m], largest first, and singular vectors [m, m] of the shorter side m of W [v, u].

    They are the eigenvalues and eigenvectors of WWᵀ (or WᵀW): for VGG16's fc6 a fraction of the time of an SVD.
    """
    short = weight if weight.shape[0] <= weight.shape[1] else weight.T
    gram = short.new_zeros(len(short), len(short), dtype=torch.float64)
    for block in short.split(COLUMNS, 1):
        gram += block.double() @ block.double().T
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp(min=0), vectors.flip(1)
