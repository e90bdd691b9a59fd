"""Where a ResNet strides, by the network definitions that were published with the weights."""

from __future__ import annotations

import pytest
import torch

from rcnn import backbones
from rcnn.errors import UserError


def windows(backbone):
    """For the first and the last block of res3, res4 and res5 the strides and spacings of their three convolutions."""
    body = dict(backbone.named_modules())
    rows = {}
    for number in (2, 3, 4):
        blocks = body.get(f"body.layer{number}", body.get(f"head.layer{number}"))
        for place, block in (("first", blocks[0]), ("last", blocks[-1])):
            convs = [block.conv1, block.conv2, block.conv3]
            rows[number + 1, place] = [(conv.stride[0], conv.dilation[0], conv.padding[0]) for conv in convs]
    return rows


PLAIN = [(1, 1, 0), (1, 1, 1), (1, 1, 0)]


@pytest.mark.parametrize("form", ["c4", "c5", "fpn"])
def test_the_papers_resnet_strides_on_the_first_convolution_of_a_stage(form):
    found = windows(backbones.create(f"resnet50-{form}", stride_on="1x1"))
    strode = [(2, 1, 0), (1, 1, 1), (1, 1, 0)]
    # R-FCN's definition and Detectron2's RES5_DILATION = 2: no stride, and every 3×3 of res5 spread by two.
    res5 = [[(1, 1, 0), (1, 2, 2), (1, 1, 0)]] * 2 if form == "c5" else [strode, PLAIN]
    assert found[3, "first"] == found[4, "first"] == strode
    assert found[3, "last"] == found[4, "last"] == PLAIN
    assert [found[5, "first"], found[5, "last"]] == res5


def test_torchvisions_resnet_strides_on_the_second_one():
    found = windows(backbones.create("resnet50-c5"))
    assert found[3, "first"] == [(1, 1, 0), (2, 1, 1), (1, 1, 0)]
    assert found[5, "first"] == PLAIN
    assert found[5, "last"] == [(1, 1, 0), (1, 2, 2), (1, 1, 0)]


def test_caffes_first_pooling_begins_inside_the_map():
    x = torch.arange(36.0).view(1, 1, 6, 6)
    ceil = backbones.create("resnet50-c4", stem_pool="ceil").body.maxpool(x)
    assert ceil[0, 0].tolist() == [[14.0, 16, 17], [26, 28, 29], [32, 34, 35]]
    padded = backbones.create("resnet50-c4").body.maxpool(x)
    assert padded[0, 0].tolist() == [[7.0, 9, 11], [19, 21, 23], [31, 33, 35]]


def test_a_layout_is_built_again_from_the_settings():
    first = backbones.create("resnet18-c4", stem_pool="ceil", norm="frozen")
    again = backbones.create(**first.settings)
    assert first.body.maxpool.padding == again.body.maxpool.padding == 0


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("zf", {"stride_on": "1x1"}, "stride_on = '1x1' is not possible for 'zf', which has no such layer"),
        ("resnet18-c4", {"stride_on": "1x1"}, "is not possible for 'resnet18-c4', which has no such layer"),
        ("resnet50-c4", {"stem_pool": "ceiling"}, "did you mean 'ceil'"),
    ],
)
def test_a_layout_that_a_network_lacks_is_refused(name, layout, message):
    with pytest.raises(UserError, match=message):
        backbones.create(name, **layout)
