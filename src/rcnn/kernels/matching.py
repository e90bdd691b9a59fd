"""Matching of boxes to ground truths by IoU, without ever holding all pairs (Ren et al. 2015, section 3.1.2).

Letters: B images, A boxes (anchors or proposals), G ground truths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.kernels.forms import form


def match(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """For each box its best ground truth, and whether it is the best box of one.

    Args:
        boxes: [B, A, 4] pixels, or [1, A, 4] where all images share them, as anchors do.
        truth: [B, G, 4] pixels.
        real: [B, G] bool; other truths are as if absent.
        eligible: [B, A] bool; other boxes are as if absent. All where None.

    Returns:
        overlap [B, A] float32: the highest IoU with a real truth, 0 where there is none.
        index [B, A] int64: the first truth of that IoU, 0 where it is 0.
        best [B, A] bool: no eligible box has a higher IoU (> 0) with some real truth than this one.
    """
    if eligible is not None:
        eligible = eligible.expand(truth.shape[0], boxes.shape[1])
    return torch.ops.rcnn.match(boxes.detach().float(), truth.detach().float(), real, eligible)


torch.library.define(
    "rcnn::match",
    "(Tensor boxes, Tensor truth, Tensor real, Tensor? eligible) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("rcnn::match", "default")
def _match(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return form(boxes.device.type).match(boxes, truth, real, eligible)


@torch.library.register_fake("rcnn::match")
def _(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    shape = (truth.shape[0], boxes.shape[1])
    return (
        boxes.new_empty(shape),
        boxes.new_empty(shape, dtype=torch.int64),
        boxes.new_empty(shape, dtype=torch.bool),
    )
