"""A trained detector whose box head is made faster by truncated SVD (Girshick 2015, section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from rcnn.detectors.base import Model
from rcnn.errors import UserError
from rcnn.heads import BoxHead, low_rank


def compress(model: Model[Any], ranks: Sequence[int] = (), *, energy: float | None = None) -> Model[Any]:
    """A copy of the detector whose fully connected layers are two each, of low rank; the model itself is left alone.

    Args:
        model: a detector whose box head has fully connected layers.
        ranks: the rank of each of them, fc6 first; 0 leaves a layer as it is, and so does a missing one.
        energy: in place of ranks: the share (above 0, at most 1) of the sum of squared singular values that each rank
            keeps. A layer is left as it is where two would not cost less; `options.box.ranks` says what was chosen.

    Raises:
        UserError: neither or both of ranks and energy, a rank that a layer can't have, or nothing to compress.
    """
    head = box_head(model)
    if (energy is None) == (not any(ranks)):
        raise UserError("expected the ranks of the fully connected layers, or the energy that they should keep")
    if energy is not None and not 0 < energy <= 1:
        raise UserError(f"energy {energy}: expected a share of the squared singular values, above 0 and at most 1")
    low_rank.chosen(head.trunk, ranks)  # refused before anything is copied
    compressed = copy.deepcopy(model)
    kept = low_rank.compress(box_head(compressed).trunk, ranks, energy=energy)
    compressed.options = replace(model.options, box=replace(model.options.box, ranks=kept))
    box_head(compressed).options = compressed.options.box
    return compressed


def box_head(model: Model[Any]) -> BoxHead:
    """The box head that can be compressed.

    Raises:
        UserError: the detector has none, it has no fully connected layers, or they are compressed already.
    """
    head = getattr(model, "box_head", None)
    if not isinstance(head, BoxHead) or not low_rank.linear_layers(head.trunk):
        raise UserError(f"{model.system} has no box head of fully connected layers to compress")
    if any(head.options.ranks):
        raise UserError(
            f"the model is compressed already, to ranks {list(head.options.ranks)}; start from the original"
        )
    return head


def parameters(module: nn.Module) -> int:
    """How many numbers a module has learnt."""
    return sum(p.numel() for p in module.parameters())
