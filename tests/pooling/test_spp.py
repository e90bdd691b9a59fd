"""Spatial pyramid pooling against loops: which cells a region holds, and the maxima of its bins."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.errors import UserError
from rcnn.pooling import SpatialPyramidPool, SPPOptions, nearest_scale
from rcnn.pooling.spp import corner_cells

STRIDE = 16


def slow_cells(low, high, stride=STRIDE):
    """The cells whose centre, `stride` times their index, lies strictly between two pixels."""
    inside = [i for i in range(200) if low < i * stride < high]
    return (inside[0], inside[-1]) if inside else (math.floor((low + high) / 2 / stride),) * 2


def slow_pool(feature, box, levels):
    """[C · bins] of one region of a map [C, H, W], bin by bin."""
    x1, x2 = slow_cells(box[0], box[2])
    y1, y2 = slow_cells(box[1], box[3])
    rows, columns = y2 - y1 + 1, x2 - x1 + 1
    out = []
    for n in levels:
        for channel in feature:
            for p in range(n):
                for q in range(n):
                    ys = slice(y1 + p * rows // n, y1 + -(-(p + 1) * rows // n))
                    xs = slice(x1 + q * columns // n, x1 + -(-(q + 1) * columns // n))
                    out.append(channel[ys, xs].max())
    return torch.stack(out)


@given(st.floats(0.5, 600), st.floats(1, 600))
@settings(max_examples=200, deadline=None)
def test_a_region_holds_the_cells_whose_centre_is_inside(low, length):
    box = torch.tensor([low, low, low + length, low + length])
    found = corner_cells(box, STRIDE, SPPOptions()).int().tolist()
    assert (found[0], found[2]) == slow_cells(box[0].item(), box[2].item())


def test_corners_are_those_of_the_paper():
    box = torch.tensor([[33.0, 0.0, 100.0, 64.0]])
    # ⌊33/16⌋ + 1 = 3, ⌊0/16⌋ + 1 = 1, ⌈100/16⌉ − 1 = 6, ⌈64/16⌉ − 1 = 3
    assert corner_cells(box, 16, SPPOptions()).tolist() == [[3, 1, 6, 3]]


def test_the_release_rounds_by_its_offsets():
    box = torch.tensor([[100.0, 90.0, 300.0, 200.0]])
    options = SPPOptions(corners="release", offsets=(21.0, 6.5))
    low = [math.floor((x - 21 + 6.5) / 16 + 0.5) + 1 for x in (100, 90)]  # counted from 1
    high = [math.ceil((x - 21 - 6.5) / 16 - 0.5) + 1 for x in (300, 200)]
    assert corner_cells(box, 16, options).tolist() == [[c - 1 for c in (*low, *high)]]


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (7, 3, 2, 1), (4, 2), (1,)])
def test_a_vector_is_the_maxima_of_a_loop_over_bins(levels):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1, 5, 20, 30, generator=generator).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(30, 2, generator=generator) * torch.tensor([300.0, 200.0])
    boxes = torch.cat((corner, corner + 2 + torch.rand(30, 2, generator=generator) * 110), 1)
    pool = SpatialPyramidPool(levels, STRIDE, SPPOptions())
    found = pool([feature], boxes[None], torch.zeros(1, 30, dtype=torch.int64))
    assert found.shape == (1, 30, 5 * sum(n * n for n in levels))
    for vector, box in zip(found[0], boxes.tolist(), strict=True):
        torch.testing.assert_close(vector, slow_pool(feature[0], box, levels))


def test_a_region_is_read_from_the_map_of_its_scale():
    maps = [torch.full((1, 2, 10, 10), 1.0), torch.full((1, 2, 20, 20), 2.0)]
    boxes = torch.tensor([[[10.0, 10, 100, 100]] * 3])
    found = SpatialPyramidPool((2, 1), STRIDE, SPPOptions())(maps, boxes, torch.tensor([[1, 0, -1]]))
    assert found[0, :, 0].tolist() == [2, 1, 0]


def test_the_gradient_goes_to_the_maxima():
    feature = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    feature.requires_grad_()
    boxes = torch.tensor([[[20.0, 20, 120, 150], [0, 0, 60, 40]]])
    pool = SpatialPyramidPool((3, 2, 1), STRIDE, SPPOptions())
    assert torch.autograd.gradcheck(lambda f: pool([f], boxes, torch.zeros(1, 2, dtype=torch.int64)), feature)


def test_the_scale_is_the_one_that_brings_a_region_closest_to_its_size():
    boxes = torch.tensor([[[0.0, 0, 224, 224], [0, 0, 112, 112], [0, 0, 448, 448], [0, 0, 10, 10], [0, 0, 5, 5]]])
    valid = torch.tensor([[True, True, True, True, False]])
    factors = torch.tensor([[0.5, 1.0, 2.0]])
    assert nearest_scale(boxes, valid, factors).tolist() == [[1, 2, 0, 2, -1]]


def test_levels_without_bins_are_refused():
    with pytest.raises(UserError, match="levels"):
        SPPOptions(levels=(3, 0))
