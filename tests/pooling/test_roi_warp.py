from __future__ import annotations

import pytest
import torch

from rcnn import kernels
from rcnn.errors import UserError
from rcnn.pooling import PoolOptions, RoIAlign, RoIPool, RoIWarp, roi_pooling


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 64 // s, 96 // s, generator=generator) for s in (4, 8)]


BOXES = torch.tensor([[[3.0, 4, 41, 37], [10, 5, 90, 60]], [[0, 0, 96, 64], [5, 5, 6, 6]]])
VALID = torch.tensor([[True, True], [True, False]])


def test_a_bin_is_the_maximum_of_its_samples(maps):
    pool = RoIWarp(3, [4, 8], samples=2, canonical_size=56, canonical_level=3)
    pooled = pool(maps, BOXES, VALID)
    samples = kernels.roi_warp(maps, BOXES, pool.level(BOXES, VALID), strides=[4, 8], size=6)
    for p in range(3):
        for q in range(3):
            bin = samples[..., 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
            assert torch.equal(pooled[..., p, q], bin.flatten(3).amax(3))
    assert not pooled[1, 1].any()


def test_a_box_gets_a_gradient_from_warping_alone(maps):
    for module, moved in ((RoIWarp(2, [4]), True), (RoIAlign(2, [4]), False), (RoIPool(2, [4]), False)):
        boxes = BOXES.clone().requires_grad_()
        pooled = module([maps[0].clone().requires_grad_()], boxes, VALID)
        grad = torch.autograd.grad(pooled.square().sum(), boxes, allow_unused=True)[0]
        assert (grad is not None and bool(grad[VALID].abs().amin() > 0)) == moved


def test_the_option_names_it_and_its_grid_is_fixed():
    pool = roi_pooling(PoolOptions(kind="warp", sampling_ratio=3), 7, [16])
    assert isinstance(pool, RoIWarp)
    assert (pool.size, pool.samples) == (7, 3)
    with pytest.raises(UserError, match=r"model\.pool\.sampling_ratio = 0: RoI warping has a fixed grid"):
        roi_pooling(PoolOptions(kind="warp", sampling_ratio=0), 7, [16])
