"""Online hard example mining: the boxes of the highest loss in the place of random ones, in its three published forms.

Shrivastava et al. 2016, section 4, and its code; Dai et al. 2016, section 3; and the form that keeps the share of
positives. Of equal losses the first counts as the harder. Letters: B images, A boxes to choose from, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn import kernels
from rcnn.targets.assign import Assignment
from rcnn.targets.sample import Samples, sample


def hardest(losses: Tensor, positive: Tensor, used: Tensor, count: int) -> Samples:
    """The `count` boxes of each image with the highest losses, whatever they stand for (R-FCN).

    Args:
        losses: [B, A], at least 0.
        positive: [B, A] bool.
        used: [B, A] bool, the boxes to choose from.
        count: S, or A if that is less.
    """
    order = torch.where(used, losses, -1.0).argsort(dim=1, descending=True, stable=True)
    index = order[:, :count]
    return Samples(index, (positive & used).gather(1, index), used.gather(1, index))


def hardest_by_fraction(
    losses: Tensor, positive: Tensor, used: Tensor, count: int, positive_fraction: float
) -> Samples:
    """As `sample` does, the hardest positives and negatives instead of random ones; the arguments are `hardest`'s."""
    assignment = Assignment(positive & used, used & ~positive, torch.zeros_like(positive, dtype=torch.int64), losses)
    boxes = losses.shape[1]
    order = losses.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(boxes, 0, -1, device=losses.device).expand_as(order)  # the hardest has the highest number
    keys = torch.empty_like(losses).scatter_(1, order, place / (boxes + 1))
    return sample(assignment, count, positive_fraction, keys=keys)


def hardest_apart(
    losses: Tensor, boxes: Tensor, labels: Tensor, positive: Tensor, used: Tensor, count: int, nms: float
) -> Samples:
    """The B · `count` hardest boxes of all images together, no two of an image and class almost the same.

    NMS with the loss as the score comes first, since boxes that overlap have alike losses and would count twice
    (Shrivastava et al. 2016, section 4.2). An image may have more than `count`, others fewer.

    Args:
        losses: [B, A], at least 0; `positive`, `used`: see `hardest`.
        boxes: [B, A, 4].
        labels: [B, A] int64, the background's among them.
        count: samples an image, on average.
        nms: IoU above which the box of the lesser loss is dropped.
    """
    images, candidates = losses.shape
    kept, number = kernels.nms(boxes, losses, used, labels, threshold=nms, capacity=candidates)
    counts = torch.arange(candidates, device=losses.device) < number[:, None]  # [B, A]
    apart = torch.zeros_like(losses).scatter_add_(1, kept, counts.to(losses.dtype)) > 0
    every = torch.where(apart, losses, -1.0).flatten()  # [B·A]
    order = every.argsort(descending=True, stable=True)[: images * count]
    chosen = torch.zeros_like(apart).flatten().index_fill_(0, order, True).view_as(apart) & apart
    return hardest(losses, positive, chosen, images * count)
