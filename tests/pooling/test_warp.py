"""R-CNN's three warps: where the context lies, what is shown and what is filled."""

from __future__ import annotations

import pytest
import torch

from rcnn.errors import UserError
from rcnn.pooling import Warp, WarpOptions
from rcnn.pooling.warp import context_windows, mean_colours

MEAN = torch.tensor([120.0, 110.0, 100.0])
BOX = torch.tensor([[40.0, 30.0, 80.0, 50.0]])  # 40 × 20, wide


@pytest.fixture
def scene():
    """An image of 100 × 120 pixels: grey 50, and the box in grey 200."""
    image = torch.full((3, 100, 120), 50, dtype=torch.uint8)
    image[:, 30:50, 40:80] = 200
    return image


def test_context_is_sixteen_pixels_of_the_warped_frame(scene):
    crop = Warp(WarpOptions(size=227))(scene, BOX, MEAN)[0, 0]
    assert WarpOptions(size=227).border == 16
    for line in (crop[113], crop[:, 113]):  # edges are blurred by the enlargement; half-way they stand where they were
        bright = (line > 125).nonzero()[:, 0]
        assert (bright[0], bright[-1], len(bright)) == (16, 227 - 17, 227 - 32)


def test_the_window_holds_the_box_in_all_but_twice_the_context_of_its_side():
    for kind in ("anisotropic", "isotropic", "isotropic-cut"):
        options = WarpOptions(kind=kind, size=227, context=16)
        window = context_windows(BOX, options)[0]
        scale = 227 / (227 - 32)
        width, height = (40, 20) if kind == "anisotropic" else (40, 40)
        expected = [60 - width / 2 * scale, 40 - height / 2 * scale, 60 + width / 2 * scale, 40 + height / 2 * scale]
        torch.testing.assert_close(window, torch.tensor(expected))


def test_the_isotropic_warp_shows_what_is_around_the_box(scene):
    crop = Warp(WarpOptions(kind="isotropic", size=80, context=0))(scene, BOX, MEAN)
    assert (crop > 125).float().mean().item() == 0.5  # 40 × 20 of 40 × 40
    assert (crop[:, :, 0] == 50).all()
    assert (crop[:, :, -1] == 50).all()


def test_the_isotropic_cut_shows_the_box_alone_and_fills_the_rest(scene):
    crop = Warp(WarpOptions(kind="isotropic-cut", size=80, context=0))(scene, BOX, MEAN)[0]
    assert (crop[:, 20:60] >= 199).float().mean() > 0.9
    filled = torch.cat((crop[:, :20], crop[:, 60:]), 1)
    assert (filled == MEAN.to(torch.uint8)[:, None, None]).all()


def test_what_lies_outside_the_image_is_the_mean_colour(scene):
    box = torch.tensor([[-20.0, 0.0, 20.0, 40.0]])
    crop = Warp(WarpOptions(size=40, context=0))(scene, box, MEAN)[0]
    assert (crop[:, :, :20] == MEAN.to(torch.uint8)[:, None, None]).all()
    assert (crop[0, :30, 20:] == 50).all()


def test_fill_may_be_the_mean_colour_of_the_box(scene):
    box = torch.tensor([[30.0, 30.0, 80.0, 50.0]])  # a fifth of it is 50, the rest 200
    crop = Warp(WarpOptions(kind="isotropic-cut", size=50, context=0, fill="box-mean"))(scene, box, MEAN)[0]
    assert (crop[:, :10] == 170).all()


def test_mean_colours_are_those_of_a_slice():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[2.0, 3, 20, 9], [1.5, 2.5, 7.2, 8.9], [-9, -9, 5, 5], [50, 50, 60, 60], [5, 5, 5, 5]])
    slices = [image[:, 3:9, 2:20], image[:, 2:9, 1:8], image[:, :5, :5]]
    expected = [part.double().mean((1, 2)).float() for part in slices]
    found = mean_colours(image, boxes, MEAN)
    torch.testing.assert_close(found, torch.stack([*expected, MEAN, MEAN]))


def test_context_that_leaves_no_room_for_the_region_is_refused():
    with pytest.raises(UserError, match="context"):
        WarpOptions(size=32, context=16)
