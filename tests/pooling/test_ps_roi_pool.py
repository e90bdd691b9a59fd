"""The module of position-sensitive pooling: which rule its options name, and the vote."""

import pytest
import torch

from rcnn import kernels
from rcnn.errors import UserError
from rcnn.pooling import PSPoolOptions, PSRoIPool, vote


@pytest.mark.parametrize(("kind", "rule"), [("pool", "caffe"), ("torchvision", "torchvision"), ("align", "align")])
@pytest.mark.parametrize("size", [3, 7])
def test_the_options_reach_the_kernel(kind, rule, size):
    torch.manual_seed(0)
    feature, valid = torch.randn(2, size * size * 4, 10, 12), torch.tensor([[True], [False]])
    boxes = torch.tensor([[[10.0, 21, 90, 77]]]).expand(2, 1, 4)
    pooled = PSRoIPool(PSPoolOptions(kind=kind, size=size, sampling_ratio=3), 8)(feature, boxes, valid)
    expected = kernels.ps_roi_pool(feature, boxes, valid, stride=8, size=size, rule=rule, sampling_ratio=3)
    assert pooled.shape == (2, 1, 4, size, size)
    assert torch.equal(pooled, expected)
    assert not pooled[1].any()


def test_the_vote_is_the_mean_of_the_bins():
    pooled = torch.randn(2, 3, 4, 3, 3)
    voted = vote(pooled)
    for d in range(4):
        assert voted[1, 2, d].item() == pytest.approx(sum(pooled[1, 2, d].flatten().tolist()) / 9, abs=1e-6)


def test_no_bins_are_refused():
    with pytest.raises(UserError, match=r"model.pool.size = 0: expected at least one bin"):
        PSPoolOptions(size=0)
