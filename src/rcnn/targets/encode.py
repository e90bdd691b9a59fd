"""Regression targets of the drawn boxes (Girshick et al. 2014, appendix C). Letters: B images, S samples, G truths."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.boxes import BoxCoder
from rcnn.structures import GroundTruth
from rcnn.targets.sample import take


def encode(references: Tensor, matched: Tensor, positive: Tensor, truth: GroundTruth, coder: BoxCoder) -> Tensor:
    """Deltas [B, S, 4] from `references` [B, S, 4] to the ground truths `matched` [B, S]; zeros where not positive.

    References that are not positive may be anything, empty boxes included: they stand in as unit boxes, so that no
    infinity arises that a mask could not remove from a gradient.
    """
    unit = torch.cat((torch.zeros_like(references[..., :2]), torch.ones_like(references[..., 2:])), -1)
    if truth.boxes.shape[1] == 0:
        return torch.zeros_like(references)
    goals = torch.where(positive[..., None], take(truth.boxes, matched), unit)
    references = torch.where(positive[..., None], references, unit)
    return coder.encode(goals, references)
