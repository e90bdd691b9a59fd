"""Matching in plain torch, a few ground truths at a time, so that memory stays far below boxes × truths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rcnn.boxes import iou

# Pairs held at once: 2^24 float32 and their temporaries are a few hundred MB.
PAIRS = 1 << 24


def match(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Best truth of boxes [B, A, 4]: overlap, index and best, each [B, A]; see `rcnn.kernels.match`."""
    shape = (truth.shape[0], boxes.shape[1])
    overlap = boxes.new_zeros(shape)
    index = torch.zeros(shape, dtype=torch.int64, device=boxes.device)
    best = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    for start, pairs in _chunks(boxes, truth, real, eligible):
        found, where = pairs.max(-1)  # [B, A]
        better = found > overlap  # strictly: of equals the first truth stays
        overlap = torch.where(better, found, overlap)
        index = torch.where(better, where + start, index)
        highest = pairs.amax(1, keepdim=True)  # [B, 1, chunk]
        best |= ((pairs == highest) & (highest > 0)).any(-1)
    return overlap, index, best


def _chunks(boxes: Tensor, truth: Tensor, real: Tensor, eligible: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Yields the number of the first truth and the IoU [B, A, chunk] of some; 0 where either side is absent."""
    images, truths = real.shape
    if boxes.shape[1] == 0:
        return
    step = max(1, PAIRS // max(1, images * boxes.shape[1]))
    for start in range(0, truths, step):
        pairs = iou(boxes, truth[:, start : start + step]) * real[:, None, start : start + step]
        yield start, pairs if eligible is None else pairs * eligible[..., None]
