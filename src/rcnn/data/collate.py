"""Images of different sizes and counts of objects, padded into one batch of fixed capacity.

Letters: B images, G capacity for objects, N for regions, h w an image's size, H W the padded size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rcnn.structures import Batch, GroundTruth, ImageBatch, Proposals, padded

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth


# The number of regions is padded to a multiple of this, so that few shapes occur.
REGIONS_MULTIPLE = 64


def collate(
    images: Sequence[Tensor],
    truths: Sequence[Truth],
    names: Sequence[str] = (),
    regions: Sequence[np.ndarray] | None = None,
) -> Batch:
    """Pads images at the right and bottom with zeros, and their objects to one count.

    Args:
        images: B of uint8 [3, h, w].
        truths: B, their boxes in pixels of those images.
        names: B, for messages.
        regions: B arrays [N, 4] of proposals in pixels of those images; None for systems that propose by themselves.

    Returns:
        `images.pixels` uint8 [B, 3, H, W], channels-last, with H and W multiples of 32; the objects padded to
        G = `capacity` of the most that one image has, and regions as of `collate_regions`.
    """
    height = max(padded(image.shape[-2]) for image in images)
    width = max(padded(image.shape[-1]) for image in images)
    pixels = torch.zeros((len(images), height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # [B, 3, H, W]
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[-2], : image.shape[-1]] = image
    sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.float32)
    proposals = None if regions is None else collate_regions(regions)
    return Batch(ImageBatch(pixels, sizes), collate_truths(truths), tuple(names), proposals)


def collate_regions(regions: Sequence[np.ndarray]) -> Proposals:
    """Regions of B images, arrays [N, 4], padded with zeros to one count, the next multiple of 64 from 64 on."""
    most = max(len(boxes) for boxes in regions)
    count = max(-(-most // REGIONS_MULTIPLE), 1) * REGIONS_MULTIPLE
    padded_boxes = torch.zeros(len(regions), count, 4)
    for row, boxes in zip(padded_boxes, regions, strict=True):
        row[: len(boxes)] = torch.as_tensor(boxes)
    present = torch.tensor([len(boxes) for boxes in regions])
    valid = torch.arange(count) < present[:, None]  # [B, N]
    return Proposals(padded_boxes, valid.float(), valid)


def collate_truths(truths: Sequence[Truth]) -> GroundTruth:
    """Objects of B images padded to one count: boxes [B, G, 4], labels [B, G] (−1 padded), ignore [B, G]."""
    count = capacity(max((len(truth.boxes) for truth in truths), default=0))
    boxes = torch.zeros(len(truths), count, 4)
    labels = torch.full((len(truths), count), -1, dtype=torch.int64)
    ignore = torch.zeros(len(truths), count, dtype=torch.bool)
    for b, truth in enumerate(truths):
        present = len(truth.boxes)
        boxes[b, :present] = torch.as_tensor(truth.boxes)
        labels[b, :present] = torch.as_tensor(truth.labels)
        ignore[b, :present] = torch.as_tensor(truth.ignore)
    return GroundTruth(boxes, labels, ignore)


def capacity(objects: int) -> int:
    """Room for that many objects: 1 for none, else the next power of two from 4 on, so that few shapes occur."""
    return 1 if objects == 0 else max(4, 1 << (objects - 1).bit_length())
