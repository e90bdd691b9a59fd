"""One image at several sizes, and which of them a region is read at."""

from __future__ import annotations

import pytest
import torch

from rcnn.data import resize
from rcnn.pooling import choose_scales, image_pyramid
from rcnn.structures import ImageBatch, padded


def images_of(*sizes: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    height, width = (padded(max(size[side] for size in sizes)) for side in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for canvas, (h, w) in zip(pixels, sizes, strict=True):
        canvas[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
    return ImageBatch(pixels, torch.tensor(sizes, dtype=torch.float32))


def test_each_scale_is_the_image_resized_and_padded():
    images = images_of((90, 120), (96, 128))
    pyramid = image_pyramid(images, (48, 72, 96))
    assert pyramid[2] is images
    for scale, side in zip(pyramid[:2], (48, 72), strict=True):
        for row, (height, width) in enumerate(images.sizes.int().tolist()):
            h, w = round(height * side / 96), round(width * side / 96)
            assert scale.sizes[row].tolist() == [h, w]
            expected = torch.zeros(3, *scale.pixels.shape[-2:], dtype=torch.uint8)
            expected[:, :h, :w] = resize(images.pixels[row, :, :height, :width], min(h, w), max(h, w))
            assert torch.equal(scale.pixels[row], expected)
            assert scale.pixels.shape[-2] % 32 == scale.pixels.shape[-1] % 32 == 0


def test_company_of_the_same_padded_shape_changes_no_scale():
    together = image_pyramid(images_of((65, 100), (96, 128)), (31, 64, 96))
    first = images_of((65, 100), (96, 128))
    alone = image_pyramid(ImageBatch(first.pixels[:1], first.sizes[:1]), (31, 64, 96))
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.pixels[:1], b.pixels)
        assert torch.equal(a.sizes[:1], b.sizes)


@pytest.mark.parametrize("sides", [(480, 576, 688, 864, 1200), (600,)])
def test_a_region_goes_to_the_scale_where_its_area_is_nearest_224_squared(sides):
    image = ImageBatch(torch.zeros(1, 3, 1216, 1600, dtype=torch.uint8), torch.tensor([[1200.0, 1600.0]]))
    pyramid = [ImageBatch(image.pixels, (image.sizes * side / max(sides)).round()) for side in sides]
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 20 + 1000 * torch.rand(200, 2, generator=generator)), 1)[None]
    valid = torch.rand(1, 200, generator=generator) < 0.9
    moved, scales = choose_scales(boxes, valid, image.sizes, pyramid)
    for box, real, own, scale in zip(boxes[0], valid[0], moved[0], scales[0].tolist(), strict=True):
        if not real:
            assert scale == -1
            continue
        factors = [side / max(sides) for side in sides]
        area = ((box[2] - box[0]) * (box[3] - box[1])).item()
        distances = [abs(area * factor**2 - 224**2) for factor in factors]
        assert distances[scale] <= min(distances) * (1 + 1e-3) + 1
        assert torch.allclose(own, box * factors[scale], atol=0.5), "but for the rounding of the image's sides"
    assert len(set(scales[0].tolist())) == len(sides) + 1


def test_a_moved_region_covers_the_same_share_of_its_image():
    image = ImageBatch(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.tensor([[101.0, 127.0]]))
    small = ImageBatch(image.pixels, torch.tensor([[50.0, 64.0]]))
    whole = torch.tensor([[[0.0, 0.0, 127.0, 101.0]]])
    moved, _ = choose_scales(whole, torch.ones(1, 1, dtype=torch.bool), image.sizes, [small])
    assert moved.tolist() == [[[0, 0, 64, 50]]]
