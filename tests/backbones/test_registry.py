"""Names, options, freezing and published parameter counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rcnn import backbones
from rcnn.backbones.norm import FrozenBatchNorm, MaskedGroupNorm, NormedConv2d
from rcnn.errors import UserError
from rcnn.structures import ImageBatch

Photograph = Callable[..., ImageBatch]


def test_a_bare_resnet_takes_the_form_of_the_system_that_asks():
    assert backbones.entry("resnet50", form="fpn").name == "resnet50-fpn"
    assert backbones.entry("resnet101", form="c4").name == "resnet101-c4"
    assert backbones.entry("vgg16", form="fpn").name == "vgg16"
    with pytest.raises(UserError, match=r"resnet50-c4, resnet50-c5, resnet50-fpn"):
        backbones.entry("resnet50")


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mobilenetv2-fpn'"):
        backbones.create("mobilnetv2-fpn")


def test_names_follow_shell_patterns():
    assert backbones.names("resnet18-*") == ["resnet18-c4", "resnet18-c5", "resnet18-fpn", "resnet18-skip"]
    assert len(backbones.names()) == 30


@pytest.mark.parametrize(
    ("name", "rest", "published"),
    [
        # Published totals: what the classifier has, less its last layer to 1,000 classes.
        ("alexnet", 4096 * 1000 + 1000, 61_100_840),
        ("caffenet", 4096 * 1000 + 1000, 60_965_224),
        ("vgg16", 4096 * 1000 + 1000, 138_357_544),
        ("squeezenet", 512 * 1000 + 1000, 1_248_424),
        ("mobilenetv2", 1280 * 1000 + 1000, 3_504_872),
        ("mobilenetv3", 960 * 1280 + 1280 + 1280 * 1000 + 1000, 5_483_032),
        ("resnet18-c4", 512 * 1000 + 1000, 11_689_512),
        ("resnet50-c4", 2048 * 1000 + 1000, 25_557_032),
        ("resnet101-c5", 2048 * 1000 + 1000, 44_549_160),
    ],
)
def test_parameters_add_up_to_the_published_count(name: str, rest: int, published: int):
    assert backbones.entry(name).parameters + rest == published


def _count(*layers: tuple[int, int, int]) -> int:
    """Weights and biases of layers given as (inputs, outputs, window side)."""
    return sum(i * o * k * k + o for i, o, k in layers)


def test_parameters_of_the_caffe_nets_follow_their_definitions():
    middle = (256, 384, 3), (384, 384, 3), (384, 256, 3)
    zf = _count((3, 96, 7), (96, 256, 5), *middle, (256 * 36, 4096, 1), (4096, 4096, 1))
    assert backbones.entry("zf").parameters == zf
    middle = (256, 512, 3), (512, 512, 3), (512, 512, 3)
    vgg_m = _count((3, 96, 7), (96, 256, 5), *middle, (512 * 36, 4096, 1), (4096, 1024, 1))
    assert backbones.entry("vgg-m").parameters == vgg_m


@pytest.mark.parametrize("levels", [(4, 8, 16, 32, 64), (8, 16, 32), (16, 32, 64, 128), [32, 64]])
def test_a_pyramid_has_the_levels_that_are_asked_for(levels: list[int], photograph: Photograph):
    backbone = backbones.create("mobilenetv2-fpn", levels=levels, channels=32)
    assert backbone.strides == tuple(levels)
    assert backbone.channels == (32,) * len(levels)
    with torch.no_grad():
        maps = backbone(photograph((128, 128)))
    assert [m.shape[2] for m in maps] == [128 // s for s in levels]


@pytest.mark.parametrize("levels", [(2, 4, 8), (8, 32), (64,), (), "classic", (8.0, 16.0)])
def test_impossible_levels_are_refused(levels: object):
    with pytest.raises(UserError, match="levels"):
        backbones.create("mobilenetv2-fpn", levels=levels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "norm = 'layer' is not known"),
        ({"norm": "none"}, "does not work without normalisation"),
        ({"frozen_stages": 6}, "has 5 stages"),
        ({"frozen_stages": -1}, "has 5 stages"),
        ({"weights": "nowhere.pth"}, "do not exist"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(options: dict, message: str):
    with pytest.raises(UserError, match=message) as refusal:
        backbones.create("resnet18-fpn", **options)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="needs a pyramid"):
        backbones.create("resnet18-c4", levels=(8, 16))


def test_a_random_start_gets_group_norm_behind_every_convolution_and_freezes_nothing():
    backbone = backbones.create("alexnet")
    convolutions = [m for m in backbone.body.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(c, NormedConv2d) and isinstance(c.norm, MaskedGroupNorm) for c in convolutions)
    assert all(p.requires_grad for p in backbone.parameters())
    resnet = backbones.create("resnet18-fpn")
    assert not any(isinstance(m, FrozenBatchNorm) for m in resnet.modules())
    assert resnet.settings["norm"] == "group"


def test_settings_build_the_same_backbone_again(photograph: Photograph):
    first = backbones.create(
        "mobilenetv2-fpn", norm="frozen", levels=(4, 8, 16), channels=64, frozen_stages=2, eps=1e-3
    )
    second = backbones.create(**first.settings)
    second.load_state_dict(first.state_dict(), strict=True)
    images = photograph((64, 96))
    assert all(map(torch.equal, first(images), second(images)))
    assert second.settings == first.settings
    assert [p.requires_grad for p in second.parameters()] == [p.requires_grad for p in first.parameters()]


@pytest.mark.parametrize(
    ("name", "frozen"),
    [("vgg16", "features.8"), ("resnet18-fpn", "layer1"), ("alexnet", "features.2"), ("zf", None)],
)
def test_published_frozen_stages(name: str, frozen: str | None):
    """VGG16 trains from conv3_1 (Girshick 2015, section 4.5), ResNets from res3, the small nets from conv2, ZF all."""
    entry = backbones.entry(name)
    with torch.device("meta"):
        backbone = backbones.create(name, frozen_stages=entry.frozen_stages)
    fixed = [key for key, p in backbone.body.named_parameters() if not p.requires_grad]
    trained = [key for key, p in backbone.body.named_parameters() if p.requires_grad]
    first_trained = {"vgg16": "10.weight", "resnet18-fpn": "layer2.0.conv1.weight", "alexnet": "3.weight"}
    assert trained[0] == first_trained.get(name, "conv1.weight")
    assert bool(fixed) == (frozen is not None)


def test_frozen_stages_stay_as_they_are_while_the_rest_trains(photograph: Photograph):
    backbone = backbones.create("resnet18-fpn", norm="batch", frozen_stages=2).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(m.square().mean() for m in backbone(photograph((64, 64), (40, 50), to=(64, 64)))).backward()
    optimiser.step()
    moved = {key.split(".")[1] for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"layer2", "layer3", "layer4", "inner_blocks", "layer_blocks"}
    assert backbone.body.layer2.training
    assert not backbone.body.bn1.training
