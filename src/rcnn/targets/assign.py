"""Which boxes are objects, background, or left out (Ren et al. 2015, section 3.1.2; Girshick 2015, section 2.3).

One rule serves anchors and RoIs: positive above one overlap, negative within an interval, the rest is left out;
anchors also take the best box of every ground truth. Letters: B images, A boxes (anchors or RoIs), G ground truths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn import boxes as box_ops
from rcnn import kernels
from rcnn.structures import GroundTruth

# Ignore regions are compared in slices of so many, so that crowded images never hold A × G overlaps at once.
_REGIONS_AT_ONCE = 8


@dataclass
class Assignment:
    """What became of each box; a box in neither mask is left out of training.

    Attributes:
        positive: [B, A] bool, the box stands for an object.
        negative: [B, A] bool, the box stands for background.
        index: [B, A] int64, the ground truth that the box overlaps most; meaningful where positive.
        overlap: [B, A] float32, the IoU with it.
    """

    positive: Tensor
    negative: Tensor
    index: Tensor
    overlap: Tensor


def assign(
    boxes: Tensor,
    eligible: Tensor,
    truth: GroundTruth,
    *,
    positive: float,
    negative: tuple[float, float],
    best_of_each: bool = False,
    ignored: float = 0.5,
) -> Assignment:
    """Sorts boxes [B or 1, A, 4] into objects, background and neither by their overlap with the ground truth.

    Args:
        boxes: [B, A, 4], or [1, A, 4] for anchors shared by all images.
        eligible: [B, A] bool; the others are left out and do not compete.
        truth: the ground truth of the B images, padded to G.
        positive: IoU from which a box is positive.
        negative: IoU interval [low, high) in which a box is negative.
        best_of_each: the boxes that overlap a ground truth most are positive at any IoU > 0. A box that ties for two
            ground truths stands for the one that it overlaps most itself: one anchor has exactly one ground truth.
        ignored: a negative with at least this share of its area in one ignore region is left out (crowds hold
            unannotated objects, so background there would be a lie).
    """
    overlap, index, best = kernels.match(boxes, truth.boxes, truth.real, eligible)
    is_positive = overlap >= positive
    if best_of_each:
        is_positive = is_positive | best
    low, high = negative
    is_negative = (overlap >= low) & (overlap < high) & ~is_positive
    is_negative = is_negative & (_share_ignored(boxes, truth) < ignored)
    return Assignment(is_positive & eligible, is_negative & eligible, index, overlap)


def _share_ignored(boxes: Tensor, truth: GroundTruth) -> Tensor:
    """The largest share of each box [B or 1, A, 4] that lies in one ignore region of its image: [B, A]."""
    regions = truth.boxes * truth.ignore[..., None]  # [B, G, 4]; others become empty boxes, which cover nothing
    if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        regions = regions[:, truth.ignore.any(0)]  # most images have none; on a GPU asking would wait for it
    share = boxes.new_zeros(truth.boxes.shape[0], boxes.shape[1])
    for part in regions.split(_REGIONS_AT_ONCE, dim=1):
        if part.shape[1]:
            share = torch.maximum(share, box_ops.covered(boxes, part).amax(-1))
    return share
