"""Normalisation that never sees padding, held beside plain loops over the unpadded images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from rcnn.backbones.norm import (
    FrozenBatchNorm,
    MaskedBatchNorm,
    MaskedGroupNorm,
    ValidRegion,
    _MaskedNormalise,
    groups,
    uncounted,
)

SIZES = torch.tensor([[5.0, 7.0], [8.0, 3.0], [8.0, 8.0]])


def _batch(channels: int = 32) -> torch.Tensor:
    return torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 2


def _region() -> ValidRegion:
    region = ValidRegion()
    region.set(SIZES)
    return region


def test_masked_group_norm_is_group_norm_of_each_image_alone():
    x = _batch()
    norm = MaskedGroupNorm(32, _region())
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    y = norm(x)
    for image, (height, width), got in zip(x, SIZES.int().tolist(), y, strict=True):
        alone = nn.functional.group_norm(image[None, :, :height, :width], norm.num_groups, norm.weight, norm.bias)
        torch.testing.assert_close(got[:, :height, :width], alone[0], rtol=1e-4, atol=1e-5)
        assert not got[:, height:].any()
        assert not got[:, :, width:].any()


def test_masked_batch_norm_is_batch_norm_of_all_real_cells():
    x = _batch()
    norm = MaskedBatchNorm(32, _region())
    reference = nn.BatchNorm1d(32)
    cells = torch.cat([image[:, :h, :w].flatten(1).T for image, (h, w) in zip(x, SIZES.int().tolist(), strict=True)])
    expected = reference(cells)  # [cells, C]
    y = norm(x)
    got = torch.cat([image[:, :h, :w].flatten(1).T for image, (h, w) in zip(y, SIZES.int().tolist(), strict=True)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var, rtol=1e-4, atol=1e-5)
    norm.eval()
    assert not norm(x)[0, :, 5:].any()
    torch.testing.assert_close(norm(x)[0, :, :5, :7].flatten(1).T, reference.eval()(x[0, :, :5, :7].flatten(1).T))


@pytest.mark.parametrize("shared", [0, 1, 2, 8])
def test_gradient_of_masked_normalisation(shared: int):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 8, 4, 3, dtype=torch.double, generator=generator, requires_grad=True)
    weight = torch.randn(8, dtype=torch.double, generator=generator, requires_grad=True)
    mask = torch.zeros(3, 1, 4, 3, dtype=torch.double)
    mask[0, :, :3, :2], mask[1], mask[2, :, :, :1] = 1, 1, 1

    def normalise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _MaskedNormalise.apply(x, mask, weight, weight * 2, shared, 1e-5)[0]

    assert torch.autograd.gradcheck(normalise, (x, weight))


@pytest.mark.parametrize("kind", [MaskedGroupNorm, MaskedBatchNorm])
def test_padding_gets_no_gradient_and_its_content_is_without_effect(kind: type[nn.Module]):
    x = _batch().requires_grad_()
    norm = kind(32, _region())
    norm(x).square().sum().backward()
    assert not x.grad[0, :, 5:].any()
    dirty = x.detach().clone()
    dirty[0, :, 5:] = 1e3
    torch.testing.assert_close(norm(dirty), norm(x.detach()))


@pytest.mark.parametrize("kind", [MaskedGroupNorm, MaskedBatchNorm])
def test_low_precision_keeps_its_type_and_statistics_stay_float32(kind: type[nn.Module]):
    x = _batch()
    low, full = kind(32, _region())(x.bfloat16()), kind(32, _region())(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), full, rtol=2e-2, atol=3e-2)


def test_frozen_batch_norm_is_batch_norm_in_eval_mode():
    reference = nn.BatchNorm2d(8, eps=1e-3).eval()
    for tensor in (reference.weight, reference.bias, reference.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(reference.running_var, 0.5, 2)
    norm = FrozenBatchNorm(8, eps=1e-3)
    norm.load_state_dict(reference.state_dict())
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(norm(x), reference(x))
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
    assert not list(norm.parameters())
    FrozenBatchNorm2d(8).load_state_dict(norm.state_dict())


@pytest.mark.parametrize("channels", [16, 24, 32, 40, 64, 72, 112, 144, 184, 256, 960, 1280])
def test_groups_divide_the_channels_and_are_never_narrow(channels: int):
    n = groups(channels)
    assert channels % n == 0
    assert n <= 32
    assert n == 1 or channels // n >= 16


def test_mask_has_as_many_rows_as_convolutions_make_of_the_unpadded_image():
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    for height, width in [(1, 1), (31, 33), (64, 50), (17, 96)]:
        unpadded = torch.zeros(1, 1, height, width)
        region = ValidRegion()
        region.set(torch.tensor([[float(height), float(width)]]))
        for stride in (2, 4, 8, 16, 32):
            unpadded = conv(unpadded)
            mask = region.mask(torch.zeros(1, 1, 96 // stride, 96 // stride), stride)[0, 0]
            assert mask.sum().item() == unpadded.shape[2] * unpadded.shape[3]
            assert mask[: unpadded.shape[2], : unpadded.shape[3]].all()


def test_frozen_batch_norm_keeps_a_counter_that_it_is_given_and_makes_none():
    counted = nn.BatchNorm2d(3)
    counted.num_batches_tracked.fill_(7)
    frozen = FrozenBatchNorm(3)
    assert "num_batches_tracked" not in frozen.state_dict()
    assert uncounted(nn.Sequential(frozen)) == {"0.num_batches_tracked"}
    frozen.load_state_dict(counted.state_dict())
    assert frozen.state_dict()["num_batches_tracked"] == 7
    assert uncounted(nn.Sequential(frozen)) == set()
    plain = {key: value for key, value in counted.state_dict().items() if key != "num_batches_tracked"}
    frozen.load_state_dict(plain)
    assert frozen.state_dict().keys() == plain.keys()
