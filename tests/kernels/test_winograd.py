"""Winograd's transforms against the convolution that they compute."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rcnn import kernels
from rcnn.kernels import reference, winograd

FORMS = [kernels.form("cpu"), reference]


def convolved(form, x, weight, bias, *, rectified, at_once):
    """The convolution [B, H, W, K] of x [B, H, W, C], some tiles at a time, by the transforms of a form."""
    tiles = len(x) * -(-x.shape[1] // winograd.TILE) * -(-x.shape[2] // winograd.TILE)
    placed = kernels.winograd_weights(torch.from_numpy(weight)).numpy()
    y = np.full((*x.shape[:3], len(weight)), np.nan, np.float32)
    for first in range(0, tiles, at_once):
        patches = np.empty((36, min(at_once, tiles - first), x.shape[3]), np.float32)
        form.winograd_patches(x, first, patches)
        form.winograd_tiles(patches @ placed.transpose(0, 2, 1), bias, first, y, rectified)
    return y


@pytest.mark.parametrize("form", FORMS, ids=["numba", "reference"])
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    channels=st.sampled_from([1, 3, 130]),
    outputs=st.sampled_from([1, 5, 129]),
    at_once=st.integers(1, 7),
    rectified=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_map_is_convolved(form, batch, height, width, channels, outputs, at_once, rectified):
    rng = np.random.default_rng(height * 12 + width)
    x = rng.standard_normal((batch, height, width, channels), np.float32)
    weight = rng.standard_normal((outputs, channels, 3, 3), np.float32)
    bias = rng.standard_normal(outputs, np.float32)
    expected = F.conv2d(*(torch.from_numpy(a).double() for a in (x.transpose(0, 3, 1, 2), weight, bias)), padding=1)
    expected = (expected.relu() if rectified else expected).permute(0, 2, 3, 1).numpy()
    found = convolved(form, x, weight, bias, rectified=rectified, at_once=at_once)
    np.testing.assert_allclose(found, expected, atol=2e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("height", [1, 9, 30])
def test_groups_of_tiles_over_threads_make_one_map(monkeypatch, threads, height):
    monkeypatch.setattr(winograd, "TILES", 5)
    monkeypatch.setattr(winograd, "FEWEST", 2)
    monkeypatch.setattr(winograd, "STEP", 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 6, height, 11), (4, 6, 3, 3)))
    bias = torch.randn(4, generator=generator)
    placed = kernels.winograd_weights(weight).transpose(1, 2).requires_grad_()
    found = kernels.winograd_convolve(x, lambda patches: torch.bmm(patches, placed), bias)
    torch.set_num_threads(before)
    assert not found.requires_grad
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), atol=1e-4, rtol=0)


def test_the_error_of_256_channels_is_below_3e_6_of_the_largest_output():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 24, 24, 256), np.float32)
    weight = rng.standard_normal((64, 256, 3, 3), np.float32)
    bias = np.zeros(64, np.float32)
    expected = F.conv2d(*(torch.from_numpy(a).double() for a in (x.transpose(0, 3, 1, 2), weight)), padding=1)
    found = convolved(kernels.form("cpu"), x, weight, bias, rectified=False, at_once=64)
    error = np.abs(found - expected.permute(0, 2, 3, 1).numpy()).max() / np.abs(expected.numpy()).max()
    assert error < 3e-6


def test_the_result_does_not_depend_on_threads(monkeypatch):
    from rcnn.kernels.cpu import threads

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 40, 40, 16), np.float32)
    weight, bias = rng.standard_normal((8, 16, 3, 3), np.float32), np.zeros(8, np.float32)
    found = []
    for count in (1, 4):
        monkeypatch.setattr(threads, "threads", lambda count=count: count)
        found.append(convolved(kernels.form("cpu"), x, weight, bias, rectified=True, at_once=100))
    np.testing.assert_array_equal(*found)
