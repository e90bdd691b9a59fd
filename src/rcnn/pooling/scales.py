"""One image at several sizes: each region is read where its area comes closest to 224² (He et al. 2014, section 4.2;
Girshick 2015, section 5.2).

The network's input is the largest; the others are made from it. Letters: B images, N RoIs, L scales, H W padded height
and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from rcnn.pooling.spp import nearest_scale
from rcnn.structures import ImageBatch, padded


def image_pyramid(images: ImageBatch, sides: Sequence[int]) -> list[ImageBatch]:
    """The images [B, 3, H, W], whose shorter sides are those of the largest scale, at each of L scales.

    Args:
        images: as they are at `max(sides)`.
        sides: the shorter side in pixels at each scale; the longer one keeps its proportion.

    Returns:
        L batches [B, 3, H_l, W_l], whose padded shape depends on H and W alone, so that company changes no result.
    """
    height, width = images.pixels.shape[-2:]
    pyramid = []
    for side in sides:
        factor = side / max(sides)
        if factor == 1:
            pyramid.append(images)
            continue
        sizes = (images.sizes * factor).round().clamp(min=1)  # [B, 2]
        shape = (padded(round(height * factor)), padded(round(width * factor)))
        pixels = images.pixels.new_zeros(len(images), 3, *shape).to(memory_format=torch.channels_last)
        for slot, image, before, after in zip(
            pixels, images.pixels, images.sizes.int().tolist(), sizes.int().tolist(), strict=True
        ):
            true = image[None, :, : before[0], : before[1]]
            slot[:, : after[0], : after[1]] = functional.resize_image(true, after, antialias=True)[0]
        pyramid.append(ImageBatch(pixels, sizes))
    return pyramid


def choose_scales(boxes: Tensor, valid: Tensor, sizes: Tensor, pyramid: Sequence[ImageBatch]) -> tuple[Tensor, Tensor]:
    """For each RoI its scale, and the RoI in the pixels of that scale.

    Args:
        boxes: [B, N, 4] pixels of the images as they were given.
        valid: [B, N] bool.
        sizes: [B, 2] height and width of those images.
        pyramid: L batches of the same images, such as of `image_pyramid`.

    Returns:
        boxes [B, N, 4], and scales [B, N] int64 in 0 … L−1, −1 where not valid.
    """
    factors = torch.stack([images.sizes / sizes for images in pyramid], 1)  # [B, L, 2] height, width
    scales = nearest_scale(boxes, valid, factors.prod(-1).sqrt())  # [B, N]
    own = factors.gather(1, scales.clamp(min=0)[..., None].expand(-1, -1, 2))  # [B, N, 2]
    return boxes * own.flip(-1).repeat(1, 1, 2), scales
