"""From scores and boxes of regions to an image's detections: greedy NMS within each class (Girshick et al. 2014, 2.2).

Letters: B images, N regions, K classes, M candidates, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn import boxes as box_ops
from rcnn import kernels, targets
from rcnn.structures import DetectionBatch, ImageBatch


@torch.no_grad()
def select(
    scores: Tensor,
    boxes: Tensor,
    valid: Tensor,
    images: ImageBatch,
    *,
    score: float,
    nms: float,
    detections: int,
    capacity: int,
    min_size: float = 0.01,
) -> DetectionBatch:
    """The best boxes of each class that no better one of the class covers.

    Args:
        scores: [B, N, K] in [0, 1].
        boxes: [B, N, K, 4] pixels.
        valid: [B, N] bool.
        images: for their true sizes, to which boxes are cut.
        score: the lowest score wanted.
        nms: IoU above which the lesser of two boxes of a class is dropped.
        detections: D, the most of an image.
        capacity: M, candidates that are kept for NMS; an image with more raises its `overflow` flag.
        min_size: boxes with a shorter side in pixels are dropped.
    """
    classes = scores.shape[-1]
    candidates = torch.where(valid[..., None] & (scores >= score), scores, 0.0).flatten(1)  # [B, N·K]
    best, index = candidates.topk(min(capacity, candidates.shape[1]), dim=1)  # [B, M]
    label = index % classes
    chosen = box_ops.clip(targets.take(boxes.flatten(1, 2), index).float(), images.sizes)  # [B, M, 4]
    large = (chosen[..., 2:] - chosen[..., :2]).amin(-1) >= min_size
    kept, count = kernels.nms(
        chosen, best, (best > 0) & large, label, threshold=nms, capacity=min(detections, best.shape[1])
    )
    real = torch.arange(kept.shape[1], device=kept.device) < count[:, None]  # [B, D]
    return DetectionBatch(
        boxes=targets.take(chosen, kept) * real[..., None],
        scores=best.gather(1, kept) * real,
        labels=torch.where(real, label.gather(1, kept), -1),
        overflow=(candidates > 0).sum(1) > best.shape[1],
    )
