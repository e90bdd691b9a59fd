import pytest
import torch
from torch import nn

from rcnn import backbones
from rcnn.errors import UserError
from rcnn.heads import box_trunk


@pytest.mark.parametrize("name", ["resnet18-c4", "mobilenetv2"])
def test_batch_statistics_of_regions_are_refused_since_unused_places_would_count(name):
    with pytest.raises(UserError, match=rf"norm = 'batch' does not suit '{name}'.*expected 'group'"):
        box_trunk(backbones.create(name, norm="batch"), None, (8,))


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_unused_places_change_nothing_under_the_norms_that_are_left(norm):
    torch.manual_seed(0)
    trunk, _, side = box_trunk(backbones.create("resnet18-c4", norm=norm), None, ())
    regions = torch.rand(3, 256, side, side)
    with torch.no_grad():
        alone = trunk.train()(regions)
        padded = trunk(torch.cat((regions, torch.zeros(5, 256, side, side))))[:3]
    torch.testing.assert_close(padded, alone)


def test_without_a_head_of_its_own_a_backbone_may_have_batch_norm():
    trunk, width, side = box_trunk(backbones.create("resnet18-fpn", norm="batch", channels=4), None, (8, 6))
    assert (width, side) == (6, 7)
    assert isinstance(trunk, nn.Module)
