"""Warped crops against a loop over single pixels, and the numba form against plain torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rcnn import kernels


def slow_warp(pixels, window, visible, fill, size):
    """One crop [3, S, S] of an image [3, H, W], pixel by pixel, corner by corner, in float64."""
    _, height, width = pixels.shape
    crop = torch.empty(3, size, size, dtype=torch.float64)
    (x1, y1, x2, y2), (left, top, right, bottom) = window.tolist(), visible.tolist()
    for v in range(size):
        for u in range(size):
            x, y = x1 + (u + 0.5) * (x2 - x1) / size, y1 + (v + 0.5) * (y2 - y1) / size
            if not (left <= x < right and top <= y < bottom):
                crop[:, v, u] = fill
                continue
            x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
            value = 0
            for yy in {math.floor(y), math.ceil(y)}:
                for xx in {math.floor(x), math.ceil(x)}:
                    value = value + (1 - abs(y - yy)) * (1 - abs(x - xx)) * pixels[:, yy, xx].double()
            crop[:, v, u] = value
    return crop


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


WINDOWS = torch.tensor(
    [
        [5.0, 5, 25, 30],
        [3.3, 7.9, 17.2, 12.1],
        [-10, -8, 30, 20],  # out of the image on two sides
        [40, 20, 80, 70],
        [0, 0, 60, 40],
        [10, 10, 11, 11],  # one pixel
        [10, 10, 10, 10],  # nothing
        [-30, -30, -10, -10],  # wholly outside
        [20.5, 5.5, 27.5, 12.5],
    ]
)


def visible_of(windows, image):
    limit = torch.tensor([image.shape[2], image.shape[1]] * 2, dtype=torch.float32)
    return torch.minimum(windows.clamp(min=0), limit)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_crop_is_the_bilinear_one_of_a_loop_over_its_pixels(image, kernels_form, size):
    fill = torch.tensor([[7, 99, 250]], dtype=torch.uint8).expand(len(WINDOWS), 3)
    visible = visible_of(WINDOWS, image)
    crops = kernels_form.warp(image, WINDOWS, visible, fill, size)
    assert crops.shape == (len(WINDOWS), 3, size, size)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for crop, window, seen, colour in zip(crops, WINDOWS, visible, fill, strict=True):
        expected = slow_warp(image, window, seen, colour.double(), size)
        assert (crop.double() - expected).abs().max() <= 0.5 + 1e-3  # rounded to the nearest


def test_numba_and_plain_torch_give_the_same_bytes(image, plain):
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(200, 2, generator=generator) * 60 - 10
    windows = torch.cat((corner, corner + torch.rand(200, 2, generator=generator) * 50), 1)
    fill = torch.randint(0, 256, (200, 3), dtype=torch.uint8, generator=generator)
    visible = visible_of(windows, image)
    fast = kernels.warp(image, windows, visible, fill, size=33)
    assert torch.equal(fast, plain.warp(image, windows, visible, fill, 33))


def test_threads_and_memory_order_do_not_change_a_crop(image):
    fill = torch.zeros(len(WINDOWS), 3, dtype=torch.uint8)
    visible = visible_of(WINDOWS, image)
    once = kernels.warp(image, WINDOWS, visible, fill, size=16)
    channels_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(kernels.warp(channels_last, WINDOWS, visible, fill, size=16), once)
    finally:
        torch.set_num_threads(before)


def test_not_a_number_and_no_region_are_harmless(image):
    fill = torch.full((1, 3), 9, dtype=torch.uint8)
    window = torch.tensor([[float("nan"), 0, 10, 10]])
    assert (kernels.warp(image, window, window, fill, size=4) == 9).all()
    assert kernels.warp(image, window[:0], window[:0], fill[:0], size=4).shape == (0, 3, 4, 4)


def test_a_crop_of_whole_pixels_is_a_copy():
    image = torch.from_numpy(np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8))
    window = torch.tensor([[2.0, 3, 6, 7]])
    crop = kernels.warp(image, window, window, torch.zeros(1, 3, dtype=torch.uint8), size=4)
    assert torch.equal(crop[0], image[:, 3:7, 2:6])
