"""A fixed number of boxes an image for the losses, drawn by top-k over random keys (Girshick 2015, section 2.3).

Drawing by keys keeps shapes fixed and never leaves the device: no index lists, no loops over images. Letters: B images,
A boxes to draw from, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.targets.assign import Assignment


@dataclass
class Samples:
    """The drawn boxes of each image: positives first, then negatives, then unused places.

    Attributes:
        index: [B, S] int64 into the boxes; any number where unused.
        positive: [B, S] bool.
        used: [B, S] bool; false where an image had too few candidates.
    """

    index: Tensor
    positive: Tensor
    used: Tensor


def sample(
    assignment: Assignment,
    count: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
    *,
    keys: Tensor | None = None,
) -> Samples:
    """Draws `count` of the assignment's [B, A] boxes: up to `positive_fraction` positives, negatives for the rest.

    Every positive has the same chance, and so has every negative; with `keys` [B, A] in [0, 1) the highest are
    taken. Missing positives are made up by negatives, missing negatives are not made up (SPEC section 5: "padded with
    negatives"). Returns `Samples` of [B, min(count, A)].
    """
    positive, negative = assignment.positive, assignment.negative
    count = min(count, positive.shape[1])
    if keys is None and generator is None:  # symbolic shapes go with no `generator` argument at all, not even None
        keys = torch.rand(positive.shape, device=positive.device)  # [B, A] in [0, 1)
    elif keys is None:
        keys = torch.rand(positive.shape, generator=generator, device=positive.device)
    wanted = min(int(count * positive_fraction), count)
    positive_keys, positive_index = torch.where(positive, keys, -1.0).topk(wanted, dim=1)  # [B, wanted]
    # Chosen positives rank above all negatives (2 + key), negatives by their key, the rest at −1.
    rank = torch.where(negative, keys, -1.0)
    rank = rank.scatter(1, positive_index, torch.where(positive_keys >= 0, positive_keys + 2.0, -1.0))
    # A place in positive_index that holds no positive may be a negative: it gets its own key back.
    rank = torch.where(negative, keys, rank)
    rank, index = rank.topk(count, dim=1)  # [B, S]
    return Samples(index, rank >= 2.0, rank >= 0.0)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` [B, A, …] at `index` [B, S]: [B, S, …]."""
    trailing = values.shape[2:]
    expanded = index.reshape(*index.shape, *(1 for _ in trailing)).expand(*index.shape, *trailing)
    return values.gather(1, expanded)
