"""Every backbone: what it says of its maps is true, torchvision is the oracle, padding is without effect."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor

from rcnn import backbones
from rcnn.backbones.norm import MaskedGroupNorm, ValidRegion
from rcnn.backbones.weights import CAFFE_STATISTICS, IMAGENET_STATISTICS
from rcnn.structures import ImageBatch

Photograph = Callable[..., ImageBatch]
HEAVY = ("vgg16", "vgg16-skip", "resnet101-c4", "resnet101-c5", "resnet101-fpn", "resnet101-skip")
LIGHT = [name for name in backbones.names() if name not in HEAVY]
# All maps have ⌈side / stride⌉ cells: every window is padded by half its size.
CENTRED = [name for name in LIGHT if name.startswith(("resnet", "mobilenet"))]


def _with_statistics(net: nn.Module) -> nn.Module:
    """A classifier in eval mode whose batch norms have statistics worth the name."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


def _normalised(images: ImageBatch) -> torch.Tensor:
    """The pixels as torchvision's classification transforms normalise them."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


# The rest differ from these in depth alone, and are built by the test on meta tensors.
RUN = [n for n in LIGHT if not n.startswith(("resnet34", "resnet50"))] + ["resnet50-fpn-v2"]


@pytest.mark.parametrize("name", RUN)
def test_maps_are_as_the_backbone_and_its_entry_say(name: str, photograph: Photograph):
    backbone = backbones.create(name).eval()
    entry = backbones.entry(name)
    images = photograph((96, 128), (77, 101), to=(96, 128))
    with torch.no_grad():
        maps = backbone(images)
    assert backbone.strides == entry.strides
    assert [m.shape[:2] for m in maps] == [(2, c) for c in backbone.channels]
    for stride, map_ in zip(backbone.strides, maps, strict=True):
        # Windows without padding lose a cell at the border, Caffe's poolings add one.
        assert abs(map_.shape[2] * stride - 96) <= (0 if name in CENTRED else stride) + stride / 2
        assert map_.is_contiguous(memory_format=torch.channels_last)
        assert torch.isfinite(map_).all()
    if name in CENTRED:
        assert [tuple(m.shape[2:]) for m in maps] == [(-(-96 // s), -(-128 // s)) for s in backbone.strides]


@pytest.mark.parametrize("name", [n for n in backbones.names() if n not in RUN])
def test_deep_backbones_have_true_shapes(name: str):
    with torch.device("meta"):
        backbone = backbones.create(name)
        maps = backbone(ImageBatch(torch.zeros(1, 3, 96, 128, dtype=torch.uint8), torch.tensor([[90.0, 128.0]])))
    assert backbone.strides == backbones.entry(name).strides
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, -(-96 // s), -(-128 // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize("name", ["alexnet", "zf", "squeezenet", "resnet18-fpn", "resnet18-c4", "mobilenetv3"])
def test_gradient_reaches_every_parameter(name: str, photograph: Photograph):
    backbone = backbones.create(name)
    maps = backbone(photograph((64, 96), (60, 90), to=(64, 96)))
    loss = sum((m * torch.randn_like(m)).sum() for m in maps)
    if backbone.head is not None:
        side = backbone.head_size
        features = backbone.head(torch.randn(3, backbone.channels[0], side, side))
        assert features.shape == (3, backbone.head_channels)
        loss = loss + (features * torch.randn_like(features)).sum()
    loss.backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["resnet18-fpn", "resnet18-c5", "resnet50-fpn-v2", "mobilenetv2", "mobilenetv3-fpn"])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_padded_image_has_the_features_that_it_has_alone(name: str, norm: str, photograph: Photograph):
    torch.manual_seed(0)
    backbone = backbones.create(name, norm=norm).eval()
    with torch.no_grad():
        for size in [(33, 45), (64, 90), (97, 131), (111, 64)]:
            alone = backbone(photograph(size))
            padded = backbone(photograph(size, (128, 160), to=(128, 160)))
            for a, p in zip(alone, padded, strict=True):
                rows, columns = a.shape[2:]
                scale = a.abs().max()
                torch.testing.assert_close(p[0, :, :rows, :columns] / scale, a[0] / scale, rtol=0, atol=1e-5)
                assert not p[0, :, rows:].any()
                assert not p[0, :, :, columns:].any()


@pytest.mark.parametrize("name", ["alexnet", "squeezenet", "resnet18-fpn", "mobilenetv3-fpn"])
def test_how_much_padding_a_batch_has_changes_no_feature(name: str, photograph: Photograph):
    torch.manual_seed(0)
    backbone = backbones.create(name, norm="group").eval()
    with torch.no_grad():
        little = backbone(photograph((150, 190), to=(192, 224)))
        much = backbone(photograph((150, 190), (320, 256), to=(320, 256)))
    for stride, a, b in zip(backbone.strides, little, much, strict=True):
        rows, columns = -(-150 // stride), -(-190 // stride)
        scale = a.abs().max()
        torch.testing.assert_close(
            b[0, :, :rows, :columns] / scale, a[0, :, :rows, :columns] / scale, rtol=0, atol=1e-5
        )


def test_padding_of_the_pixels_is_zero_after_normalisation_whatever_it_held(photograph: Photograph):
    backbone = backbones.create("squeezenet")
    images = photograph((40, 50), to=(64, 64))
    images.pixels[:, :, 40:] = 255
    x = backbone.normalise(images)
    assert not x[:, :, 40:].any()
    assert not x[:, :, :, 50:].any()
    torch.testing.assert_close(x[:, :, :40, :50], _normalised(images)[:, :, :40, :50])


@pytest.mark.parametrize(
    ("statistics", "colour", "expected"),
    [
        (IMAGENET_STATISTICS, (255, 0, 0), ((1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225)),
        (CAFFE_STATISTICS, (255, 0, 10), (10 - 102.9801, -115.9465, 255 - 122.7717)),
    ],
)
def test_a_solid_colour_arrives_in_the_order_and_range_of_the_weights(
    statistics: object, colour: tuple[int, ...], expected: tuple[float, ...]
):
    backbone = backbones.create("squeezenet")
    backbone.normalise.set(statistics)
    solid = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 32, 32)
    x = backbone.normalise(ImageBatch(solid, torch.tensor([[32.0, 32.0]])))
    torch.testing.assert_close(x[0, :, 7, 9], torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "make", "layer"),
    [
        ("alexnet", torchvision.models.alexnet, lambda net, x: net.features[:-1](x)),
        ("squeezenet", torchvision.models.squeezenet1_0, lambda net, x: net.features(x)),
        ("mobilenetv2", torchvision.models.mobilenet_v2, lambda net, x: net.features[:14](x)),
        ("mobilenetv3", torchvision.models.mobilenet_v3_large, lambda net, x: net.features[:13](x)),
        ("resnet18-c4", torchvision.models.resnet18, lambda net, x: nn.Sequential(*list(net.children())[:7])(x)),
        ("resnet50-c4", torchvision.models.resnet50, lambda net, x: nn.Sequential(*list(net.children())[:7])(x)),
        (
            "resnet50-c5",
            lambda: torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]),
            lambda net, x: nn.Sequential(*list(net.children())[:8])(x),
        ),
    ],
)
def test_features_equal_torchvisions_from_its_own_file(
    name: str, make: Callable[[], nn.Module], layer: Callable, photograph: Photograph, tmp_path
):
    theirs = _with_statistics(make())
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = backbones.create(name, weights=tmp_path / "net.pth").eval()
    images = photograph((96, 128))
    with torch.no_grad():
        expected, (got,) = layer(theirs, _normalised(images)), ours(images)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("resnet18-fpn", torchvision.models.resnet18),
        ("resnet50-fpn-v2", torchvision.models.resnet50),
        ("mobilenetv2-fpn", torchvision.models.mobilenet_v2),
        ("mobilenetv3-fpn", torchvision.models.mobilenet_v3_large),
    ],
)
def test_pyramid_equals_torchvisions_detection_backbone_by_strict_state_dict(
    name: str, make: Callable[[], nn.Module], photograph: Photograph
):
    net = make()
    if "resnet" in name:
        theirs = _resnet_fpn_extractor(net, 5, norm_layer=nn.BatchNorm2d if name.endswith("v2") else None)
    else:
        theirs = _mobilenet_extractor(net, fpn=True, trainable_layers=6)
    _with_statistics(theirs)
    ours = backbones.create(name, norm="frozen", levels="torchvision").eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    own = {k: v for k, v in ours.state_dict().items() if k.startswith("normalise.")}
    ours.load_state_dict(state | own, strict=True)
    images = photograph((96, 128))
    with torch.no_grad():
        expected, got = list(theirs(_normalised(images)).values()), ours(images)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_resnet18_c5_sees_what_the_strided_network_sees():
    """À trous: every second cell of the dilated res5 is the strided res5 (one convolution chain, no border effect)."""
    from rcnn.backbones.resnet import trunk

    torch.manual_seed(0)
    dense = trunk(torchvision.models.resnet18, "c5", nn.BatchNorm2d).body.eval()
    strided = trunk(torchvision.models.resnet18, "fpn", nn.BatchNorm2d).body.eval()
    strided.load_state_dict(dense.state_dict())
    x = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        torch.testing.assert_close(dense(x)[:, :, ::2, ::2], strided(x), rtol=1e-3, atol=1e-4)


def test_vgg16_pools_four_times_and_its_head_is_fc6_and_fc7():
    with torch.device("meta"):
        backbone = backbones.create("vgg16")
    assert sum(isinstance(m, nn.MaxPool2d) for m in backbone.body.modules()) == 4
    assert [tuple(p.shape) for p in backbone.head.parameters()] == [(4096, 512 * 49), (4096,), (4096, 4096), (4096,)]


def test_dropout_acts_in_training_only():
    head = backbones.create("alexnet").head
    x = torch.rand(2, 256, 6, 6)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


@pytest.mark.parametrize(
    ("name", "norm"),
    [("resnet18-fpn", "group"), ("resnet18-fpn", "batch"), ("mobilenetv2-fpn", "frozen"), ("mobilenetv3", "group")],
)
def test_compiles_into_one_graph(name: str, norm: str, photograph: Photograph):
    torch.manual_seed(0)
    backbone = backbones.create(name, norm=norm)
    images = photograph((60, 90), (64, 96), to=(64, 96))
    compiled = torch.compile(copy.deepcopy(backbone), fullgraph=True, backend="eager")
    for ours, theirs in zip(compiled(images), backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    sum(m.mean() for m in compiled(images)).backward()


def test_a_copy_does_not_share_the_valid_region_with_its_original(photograph: Photograph):
    backbone = backbones.create("resnet18-fpn")
    clone = copy.deepcopy(backbone)
    regions = {id(m.region) for m in clone.modules() if isinstance(m, MaskedGroupNorm)}
    assert len(regions) == 1
    assert regions.isdisjoint({id(m.region) for m in backbone.modules() if isinstance(m, MaskedGroupNorm)})
    assert isinstance(clone._region, ValidRegion)
    images = photograph((50, 60), to=(64, 64))
    assert all(map(torch.equal, clone(images), backbone(images)))
