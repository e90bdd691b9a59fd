"""The pyramid held beside torchvision's."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rcnn.backbones.fpn import FPN


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_pyramid_equals_torchvisions_with_its_state_dict(norm: type[nn.Module] | None):
    theirs = FeaturePyramidNetwork([8, 16, 32], 12, LastLevelMaxPool(), norm_layer=norm).eval()
    ours = FPN([8, 16, 32], [8, 16, 32], 12, norm=norm).eval()
    ours.load_state_dict(theirs.state_dict())
    maps = [torch.randn(2, c, s, s + 3) for c, s in ((8, 21), (16, 11), (32, 6))]
    expected = list(theirs(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
    for ours_, theirs_ in zip(ours(maps), expected, strict=True):
        torch.testing.assert_close(ours_, theirs_)


def test_extra_levels_are_every_second_cell():
    pyramid = FPN([8], [32], 4, extra=2)([torch.randn(1, 8, 7, 9)])
    assert torch.equal(pyramid[1], pyramid[0][:, :, ::2, ::2])
    assert torch.equal(pyramid[2], pyramid[1][:, :, ::2, ::2])


def test_every_level_reaches_every_finer_one_but_no_coarser_one():
    fpn = FPN([4, 4], [16, 32], 4, extra=0)
    fine, coarse = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 2)
    before = fpn([fine, coarse])
    finer, coarser = fpn([fine + 1, coarse]), fpn([fine, coarse + 1])
    assert torch.equal(finer[1], before[1])
    assert not torch.equal(coarser[0], before[0])
