"""The pooling modules: which map a RoI reads, and that they pool from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign

from rcnn import kernels
from rcnn.errors import UserError
from rcnn.pooling import LevelRule, RoIAlign, RoIPool


def square(side: float) -> list[float]:
    return [3.0, 5.0, 3.0 + side, 5.0 + side]


@given(st.floats(1, 2000), st.floats(1, 2000))
def test_the_level_is_the_papers(width, height):
    rule = LevelRule((4.0, 8.0, 16.0, 32.0))
    box = torch.tensor([[[0, 0, width, height]]])
    k = 4 + math.log2(math.sqrt(width * height) / 224)
    if abs(k - round(k)) > 1e-4:
        assert int(rule(box, torch.ones(1, 1, dtype=torch.bool))) == min(max(math.floor(k), 2), 5) - 2


def test_a_roi_of_the_canonical_size_reads_the_canonical_map():
    rule = LevelRule((4.0, 8.0, 16.0, 32.0))
    boxes = torch.tensor([[square(s) for s in (111, 112, 223, 224, 447, 448, 5000, 0)]])
    assert rule(boxes, torch.ones(1, 8, dtype=torch.bool)).tolist() == [[0, 1, 1, 2, 2, 3, 3, 0]]


def test_padding_has_no_level_and_one_map_takes_all():
    boxes, valid = torch.tensor([[square(50), square(500)]]), torch.tensor([[True, False]])
    assert LevelRule((4.0, 8.0))(boxes, valid).tolist() == [[0, -1]]
    assert LevelRule((16.0,))(boxes, valid).tolist() == [[0, -1]]


def test_other_canonical_sizes_move_the_levels():
    boxes, valid = torch.tensor([[square(112)]]), torch.tensor([[True]])
    assert LevelRule((4.0, 8.0, 16.0), canonical_size=112)(boxes, valid).tolist() == [[2]]
    assert LevelRule((4.0, 8.0, 16.0), canonical_level=3)(boxes, valid).tolist() == [[0]]


def test_maps_of_one_stride_are_pooled_as_torchvisions_mobilenet_detectors_do():
    from torchvision.ops.poolers import MultiScaleRoIAlign

    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 250.0, 250.0], [0.0, 0.0, 400.0, 300.0]])
    pooler = MultiScaleRoIAlign(["0", "1"], output_size=7, sampling_ratio=2)
    maps = {"0": torch.randn(1, 8, 13, 16), "1": torch.randn(1, 8, 13, 16)}
    theirs = pooler(maps, [boxes], [(416, 512)])
    ours = RoIAlign(7, (32, 32), aligned=False)(list(maps.values()), boxes[None], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(ours[0], theirs)


@pytest.mark.parametrize("strides", [[], [0], [4, 16], [3, 6], [8, 4]])
def test_strides_of_no_pyramid_are_refused(strides):
    for module in (RoIAlign, RoIPool):
        with pytest.raises(UserError, match="strides"):
            module(7, strides)


def scene() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Maps of strides 4 … 64 of an image of 256 × 320, RoIs, and which of them are real."""
    torch.manual_seed(0)
    features = [torch.randn(2, 6, 256 // s, 320 // s) for s in (4, 8, 16, 32, 64)]
    corner = torch.rand(2, 30, 2) * 150
    boxes = torch.cat((corner, corner + torch.rand(2, 30, 2) ** 2 * 300), -1)
    return features, boxes, torch.rand(2, 30) > 0.2


def test_roi_align_equals_torchvisions_and_leaves_p6_out():
    features, boxes, valid = scene()
    pooled = RoIAlign(5, (4, 8, 16, 32), aligned=False)(features, boxes, valid)
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 5, 2)
    maps = {str(i): f for i, f in enumerate(features[:4])}
    theirs = peer(maps, list(boxes), [(256, 320)] * 2).view(2, 30, 6, 5, 5)
    torch.testing.assert_close(pooled, theirs * valid[..., None, None, None], rtol=0, atol=1e-4)


@pytest.mark.parametrize("module", [RoIAlign, RoIPool])
def test_a_batch_pools_as_its_images_do_alone(module):
    features, boxes, valid = scene()
    pool = module(5, (4, 8, 16, 32))
    together = pool(features, boxes, valid)
    assert together.shape == (2, 30, 6, 5, 5)
    for b in range(2):
        alone = pool([f[b : b + 1] for f in features], boxes[b : b + 1], valid[b : b + 1])
        assert torch.equal(together[b], alone[0])


def test_roi_pool_reads_its_one_map():
    features, boxes, valid = scene()
    pooled = RoIPool(7, [16])(features[2:], boxes, valid)
    expected = kernels.roi_pool([features[2]], boxes, valid.long() - 1, strides=[16], size=7)
    assert torch.equal(pooled, expected)


@pytest.mark.parametrize("module", [RoIAlign, RoIPool])
def test_the_modules_compile_whole_and_print_their_settings(module):
    features, boxes, valid = scene()
    pool = module(3, (4, 8, 16, 32))
    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    assert torch.equal(compiled(features, boxes, valid), pool(features, boxes, valid))
    assert "strides=(4.0, 8.0, 16.0, 32.0)" in repr(pool)
