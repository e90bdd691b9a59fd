"""Images of different sizes and counts of objects, padded into one batch of fixed capacity.

Letters: B images, G capacity for objects, N for regions, R for runs of masks, h w an image's size, H W the padded size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rcnn.data.segments import Frame, segment_runs
from rcnn.data.semantic import VOID, in_frame
from rcnn.structures import Batch, GroundTruth, ImageBatch, Masks, Proposals, padded

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth


# The number of regions is padded to a multiple of this, so that few shapes occur.
REGIONS_MULTIPLE = 64


def collate(
    images: Sequence[Tensor],
    truths: Sequence[Truth],
    names: Sequence[str] = (),
    regions: Sequence[np.ndarray] | None = None,
    *,
    masks: bool = False,
) -> Batch:
    """Pads images at the right and bottom with zeros, and their objects to one count.

    Args:
        images: B of uint8 [3, h, w], or of float32 from 0 to 255.
        truths: B, their boxes in pixels of those images.
        names: B, for messages.
        regions: B arrays [N, 4] of proposals in pixels of those images; None for systems that propose by themselves.
        masks: whether the objects' masks come along.

    Returns:
        `images.pixels` [B, 3, H, W] of that type, channels-last, with H and W multiples of 32; the objects padded to
        G = `capacity` of the most that one image has, and regions as of `collate_regions`.
    """
    height = max(padded(image.shape[-2]) for image in images)
    width = max(padded(image.shape[-1]) for image in images)
    pixels = torch.zeros((len(images), height, width, 3), dtype=images[0].dtype).permute(0, 3, 1, 2)  # [B, 3, H, W]
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[-2], : image.shape[-1]] = image
    sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.float32)
    proposals = None if regions is None else collate_regions(regions)
    truth = collate_truths(truths)
    if masks:
        truth.masks = collate_masks(truths, [image.shape[-2:] for image in images], truth.labels.shape[1])
    if truths and all(truth.semantic is not None for truth in truths):
        truth.semantic = collate_maps(truths, [image.shape[-2:] for image in images], (height, width))
    return Batch(ImageBatch(pixels, sizes), truth, tuple(names), proposals)


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


def collate_masks(truths: Sequence[Truth], sizes: Sequence[Sequence[int]], count: int) -> Masks:
    """Masks of the objects of B images of `sizes` (height, width), padded to `count` objects and some runs.

    Crowd regions and difficult objects, which no RoI stands for, go without.
    """
    frames = [truth.frame or Frame((height, width)) for truth, (height, width) in zip(truths, sizes, strict=True)]
    start = np.full((len(truths), count), -1, np.int64)
    runs, pixels = [np.empty(0, np.int64)], 0
    for b, (truth, frame) in enumerate(zip(truths, frames, strict=True)):
        for g in np.flatnonzero(~truth.ignore).tolist():
            if truth.segments[g] is not None:
                lengths = segment_runs(truth.segments[g], frame.size)
                runs.append(np.append(lengths, 0) if len(lengths) % 2 else lengths)  # each begins with what is off
                start[b, g], pixels = pixels, pixels + math.prod(frame.size)
    lengths = np.concatenate(runs)
    lengths = np.append(lengths, np.zeros(capacity(len(lengths)) - len(lengths), np.int64))  # [R]
    on = np.arange(len(lengths)) % 2 == 1
    return Masks(
        ends=torch.from_numpy(np.cumsum(lengths)),
        area=torch.from_numpy(np.cumsum(lengths * on)),
        on=torch.from_numpy(on),
        start=torch.from_numpy(start),
        sizes=torch.tensor([frame.size for frame in frames]),
        windows=torch.tensor([frame.visible for frame in frames], dtype=torch.float32),
        frames=torch.tensor([[*frame.scale, *frame.shift] for frame in frames], dtype=torch.float32),
    )


def collate_maps(truths: Sequence[Truth], sizes: Sequence[Sequence[int]], padded_to: tuple[int, int]) -> Tensor:
    """Label maps of B images of `sizes` (height, width): uint8 [B, H, W], void in the padding up to (H, W)."""
    maps = torch.full((len(truths), *padded_to), VOID, dtype=torch.uint8)
    for canvas, truth, (height, width) in zip(maps, truths, sizes, strict=True):
        assert truth.semantic is not None
        frame = truth.frame or Frame(truth.semantic.shape)
        canvas[:height, :width] = torch.from_numpy(in_frame(truth.semantic, frame, (height, width)))
    return maps


def capacity(objects: int) -> int:
    """Room for that many objects: 1 for none, else the next power of two from 4 on, so that few shapes occur."""
    return 1 if objects == 0 else max(4, 1 << (objects - 1).bit_length())
