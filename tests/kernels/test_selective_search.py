"""The steps of Selective Search: numba's form equals the plain one, and both keep what the papers say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn import kernels
from rcnn.kernels import reference
from rcnn.kernels.colour import SPACES, channels_of
from rcnn.kernels.grouping import WHOLE

fast = pytest.importorskip("rcnn.kernels.cpu")


def picture(seed, height=23, width=31):
    """Flat patches under noise: regions of many sizes, and many equal weights."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90, np.int64)
    for _ in range(7):
        y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
        image[y : y + rng.integers(3, 15), x : x + rng.integers(3, 15)] = rng.integers(0, 256, 3)
    noise = rng.integers(-6, 7, image.shape) * (rng.random((height, width, 1)) < 0.5)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("space", SPACES)
def test_colour_spaces_agree(space):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image[:4], image[4:8], image[8:12] = 0, 255, 77  # black, white and grey
    planes = fast.convert(image, space)
    assert planes.shape == (channels_of(space), 40, 50)
    np.testing.assert_allclose(planes, reference.convert(image, space), atol=0.01)


@pytest.mark.parametrize("space", SPACES)
def test_every_colour_lies_within_a_byte(space):
    corners = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(1, -1, 3).astype(np.uint8)
    planes = fast.convert(corners, space)
    assert planes.min() > -0.1
    assert planes.max() < 255.1


def test_known_colours_have_their_known_values():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]], np.uint8)
    np.testing.assert_allclose(fast.convert(image, "hue")[0, 0], [0, 85, 170, 0], atol=1e-3)
    np.testing.assert_allclose(fast.convert(image, "rgi")[:, 0, 0], [255, 0, 85], atol=1e-3)
    low, extent = kernels.colour.LAB_LOW[:, None], kernels.colour.LAB_EXTENT[:, None]
    lab = fast.convert(image, "lab")[:, 0] / 255 * extent + low
    np.testing.assert_allclose(lab[:, 0], [53.24, 80.09, 67.20], atol=0.05)  # CIE's values of sRGB red
    np.testing.assert_allclose(lab[:, 3], [53.59, 0, 0], atol=0.05)


@pytest.mark.parametrize("shape", [(3, 20, 33), (1, 5, 3), (1, 1, 1)])
def test_smoothing_and_bins_are_equal(shape):
    planes = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    for sigma in (0.3, 0.8, 2.0):
        np.testing.assert_array_equal(fast.smooth(planes, sigma), reference.smooth(planes, sigma))
    np.testing.assert_array_equal(fast.bin_numbers(planes), reference.bin_numbers(planes))


def test_smoothing_keeps_a_flat_image_and_its_mean():
    planes = np.full((1, 9, 14), 37, np.float32)
    np.testing.assert_allclose(kernels.smooth(planes, 0.8), planes, rtol=1e-6)
    assert kernels.smooth(planes, 0) is planes


def test_texture_tells_directions_apart():
    ramp = np.tile(np.arange(40, dtype=np.float32) * 5, (20, 1))  # rises to the right
    right, down = (kernels.bin_numbers(np.ascontiguousarray(p[None]))[5:-5, 5:-5] for p in (ramp, ramp.T))
    assert (right[..., 0] > 0).all()
    assert (right[..., 0] < 10).all()
    assert (right[..., 2] % 10 == 0).all()  # no slope downwards
    assert (right[..., 3] > 10).all()  # falls along 135°
    assert (down[..., 2] > 0).all()
    assert (down[..., 0] % 10 == 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(23, 31), (1, 40), (40, 1), (2, 2), (1, 1)])
def test_segmentations_are_equal(seed, shape):
    planes = fast.smooth(fast.convert(picture(seed)[: shape[0], : shape[1]], "lab"), 0.8)
    edges, plain = fast.sorted_edges(planes), reference.sorted_edges(planes)
    np.testing.assert_array_equal(edges.codes, plain.codes)
    np.testing.assert_array_equal(edges.first, plain.first)
    for k, least in ((5, 1), (20, 5), (100, 30)):
        ours, theirs = fast.segment(edges, k, least), reference.segment(plain, k, least)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.sizes, theirs.sizes)
        np.testing.assert_array_equal(sorted(ours.pairs.tolist()), theirs.pairs.tolist())


def test_segments_are_connected_and_large_enough():
    planes = kernels.smooth(kernels.convert(picture(7, 60, 80), "hsv"), 0.8)
    regions = kernels.segment(kernels.sorted_edges(planes), 20, 15)
    assert regions.sizes.min() >= 15
    assert regions.sizes.sum() == 60 * 80
    for r in range(len(regions.sizes)):
        assert connected(regions.labels == r)


def connected(mask):
    """Whether the pixels of a mask [H, W] hang together, corners included: a flood from the first fills it."""
    reached = np.zeros(np.add(mask.shape, 2), bool)
    y, x = np.argwhere(mask)[0]
    reached[y + 1, x + 1] = True
    while True:
        grown = reached.copy()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(reached, (dy, dx), (0, 1))
        grown[1:-1, 1:-1] &= mask
        grown[[0, -1]] = grown[:, [0, -1]] = False
        if (grown == reached).all():
            return bool((reached[1:-1, 1:-1] == mask).all())
        reached = grown


def test_two_flat_halves_are_two_segments():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    regions = kernels.segment(kernels.sorted_edges(kernels.convert(image, "intensity")), 100, 10)
    assert regions.boxes.tolist() == [[0, 0, 15, 20], [15, 0, 30, 20]]
    assert regions.pairs.tolist() == [[0, 1]]


@pytest.mark.parametrize("space", ["lab", "hue"])
def test_histograms_are_equal_and_whole(space):
    planes = fast.convert(picture(3), space)
    regions, numbers = fast.segment(fast.sorted_edges(planes), 10, 3), fast.bin_numbers(planes)
    ours, theirs = fast.histograms(regions, numbers), reference.histograms(regions, numbers)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    assert ours.texture == theirs.texture
    for part in (ours.rows[:, : ours.texture], ours.rows[:, ours.texture :]):
        assert np.abs(part.sum(1, dtype=np.int64) - WHOLE).max() <= part.shape[1]  # rounding


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("terms", ["colour texture size fill", "texture size fill", "fill", "size", "colour"])
def test_groupings_are_equal(seed, terms):
    planes = fast.convert(picture(seed), "hsv")
    regions = fast.segment(fast.sorted_edges(planes), 4, 2)
    assert len(regions.sizes) > 15
    looks = fast.histograms(regions, fast.bin_numbers(planes))
    wanted = {term: term in terms.split() for term in ("colour", "texture", "size", "fill")}
    ours = kernels.group(regions, looks, **wanted)
    columns = looks.rows[:, 0 if wanted["texture"] else looks.texture : None if wanted["colour"] else looks.texture]
    theirs = reference.group(regions, columns, size=wanted["size"], fill=wanted["fill"])
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 5, 30]))
def test_a_hierarchy_starts_with_the_regions_and_ends_with_the_image(seed, height, width, k):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    planes = kernels.convert(image, "lab")
    regions = kernels.segment(kernels.sorted_edges(planes), k, 1)
    looks = kernels.histograms(regions, kernels.bin_numbers(planes))
    boxes = kernels.group(regions, looks, colour=True, texture=True, size=True, fill=True)
    assert len(boxes) == 2 * len(regions.sizes) - 1
    np.testing.assert_array_equal(boxes[: len(regions.sizes)], regions.boxes)
    assert boxes[-1].tolist() == [0, 0, width, height]
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_the_input_of_a_grouping_is_left_alone():
    planes = kernels.convert(picture(0), "hsv")
    regions = kernels.segment(kernels.sorted_edges(planes), 4, 2)
    looks = kernels.histograms(regions, kernels.bin_numbers(planes))
    before = looks.rows.copy(), regions.boxes.copy(), regions.sizes.copy()
    first = kernels.group(regions, looks, colour=True, texture=True, size=True, fill=True)
    again = kernels.group(regions, looks, colour=True, texture=True, size=True, fill=True)
    np.testing.assert_array_equal(first, again)
    for old, new in zip(before, (looks.rows, regions.boxes, regions.sizes), strict=True):
        np.testing.assert_array_equal(old, new)
