"""The quick 3×3 convolution against torch's in float64."""

import importlib

import pytest
import torch
from torch.nn import functional as F

from rcnn import kernels

module = importlib.import_module("rcnn.kernels.conv3x3")  # the function hides it


@pytest.fixture
def everything_is_large(monkeypatch):
    """Small maps go the way of large ones."""
    monkeypatch.setattr(module, "CELLS", 0)
    monkeypatch.setattr(module, "CHANNELS", 0)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 5, 9, 6), (1, 130, 3, 17), (2, 1, 1, 1)])
@pytest.mark.parametrize("outputs", [2, 129])
@pytest.mark.parametrize("biased", [False, True])
def test_outputs_and_gradients_are_those_of_the_plain_sum(everything_is_large, shape, outputs, biased):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(outputs, shape[1], 3, 3), torch.randn(outputs)
    given = [x, weight, bias] if biased else [x, weight]
    quick = [tensor.clone().requires_grad_() for tensor in given]
    exact = [tensor.double().requires_grad_() for tensor in given]
    y = kernels.conv3x3(*quick)
    expected = F.conv2d(*exact, padding=1)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient.double())
    for a, b in [(y, expected), *((p.grad, q.grad) for p, q in zip(quick, exact, strict=True))]:
        torch.testing.assert_close(a.double(), b, rtol=0, atol=3e-5 * float(b.detach().abs().max()))


def test_only_what_is_asked_for_gets_a_gradient(everything_is_large):
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3)
    kernels.conv3x3(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize(
    ("shape", "weight", "dtype"),
    [
        ((1, 128, 64, 63), (128, 128, 3, 3), torch.float32),  # few cells
        ((1, 127, 64, 64), (128, 127, 3, 3), torch.float32),  # narrow
        ((1, 128, 64, 64), (128, 128, 3, 3), torch.float64),
    ],
)
def test_what_it_does_not_suit_is_left_to_torch(shape, weight, dtype):
    x, w = torch.randn(shape, dtype=dtype), torch.randn(weight, dtype=dtype)
    assert torch.equal(kernels.conv3x3(x, w), F.conv2d(x, w, padding=1))


def test_autocast_keeps_its_type(everything_is_large):
    x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.conv3x3(x, w).dtype == torch.bfloat16


def test_torch_knows_the_operators(everything_is_large):
    x = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(5, 4, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.rcnn.conv3x3.default, (x, w))
    torch.library.opcheck(torch.ops.rcnn.conv3x3_weight_gradient.default, (x.detach(), torch.randn(1, 5, 8, 8)))
