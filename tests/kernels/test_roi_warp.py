"""RoI warping against loops over single samples, plain torch, and finite differences in features and boxes."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rcnn import kernels
from rcnn.kernels import reference
from rcnn.kernels.forms import form

STRIDES = [4.0, 8.0, 16.0]


def slow_roi_warp(feature, box, stride, size):
    """RoI warping of one map [C, H, W] and box, sample by sample, corner by corner."""
    channels, height, width = feature.shape
    x1, y1, x2, y2 = box.tolist()
    warped = torch.zeros(channels, size, size, dtype=feature.dtype)
    for i in range(size):
        for j in range(size):
            y = (y1 + (i + 0.5) / size * (y2 - y1)) / stride - 0.5
            x = (x1 + (j + 0.5) / size * (x2 - x1)) / stride - 0.5
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            for yy in {math.floor(y), math.ceil(y)}:
                for xx in {math.floor(x), math.ceil(x)}:
                    warped[:, i, j] += (1 - abs(y - yy)) * (1 - abs(x - xx)) * feature[:, yy, xx]
    return warped


@pytest.fixture(params=["fast", "plain"])
def warping(request):
    """The form that runs on this CPU, and plain torch."""
    return form("cpu") if request.param == "fast" else reference


def test_each_sample_is_the_bilinear_value_at_its_place(warping, pyramid, rois):
    boxes, levels = rois
    warped = warping.roi_warp(pyramid, boxes, levels, STRIDES, 3)
    for b in range(2):
        for n in range(boxes.shape[1]):
            level = int(levels[b, n])
            expected = torch.zeros(5, 3, 3)
            if level >= 0:
                expected = slow_roi_warp(pyramid[level][b], boxes[b, n], STRIDES[level], 3)
            assert torch.allclose(warped[b, n], expected, atol=1e-4), (b, n)


@given(
    st.tuples(*[st.floats(-40, 200) for _ in range(4)]), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31 - 1)
)
@settings(max_examples=60, deadline=None)
def test_any_box_of_any_map_agrees_with_the_loop(corners, side, size, seed):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(1, 3, side, 7 - side, generator=generator, dtype=torch.float64)
    box = torch.tensor(corners, dtype=torch.float64)
    warped = kernels.roi_warp([feature], box.view(1, 1, 4), torch.zeros(1, 1).long(), strides=[8], size=size)
    assert torch.allclose(warped[0, 0], slow_roi_warp(feature[0], box, 8, size), atol=1e-9)


def test_inside_the_image_it_is_roi_align_with_one_sample_a_bin(pyramid):
    boxes = torch.tensor([[[3.0, 5, 60, 70], [10, 0, 160, 128]]]).expand(2, -1, -1)
    levels = torch.tensor([[0, 1], [2, 0]])
    expected = kernels.roi_align(pyramid, boxes, levels, strides=STRIDES, size=6, sampling_ratio=1)
    assert torch.allclose(kernels.roi_warp(pyramid, boxes, levels, strides=STRIDES, size=6), expected, atol=1e-5)


def test_gradients_of_features_and_boxes_are_those_of_finite_differences(warping, monkeypatch):
    monkeypatch.setattr(sys.modules["rcnn.kernels.roi_warp"], "form", lambda device: warping)
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 3, s, s + 1, generator=generator, dtype=torch.float64).requires_grad_() for s in (9, 5)]
    boxes = torch.tensor(
        [
            [[3.1, 4.3, 21.7, 30.2], [-7.3, -5.1, 50.9, 60.3], [11.0, 11.0, 11.0, 11.0]],
            [[1.9, 2.2, 8.8, 33.3], [30.1, 28.7, 12.3, 5.9], [60.2, 60.1, 80.4, 70.3]],
        ],
        dtype=torch.float64,
    ).requires_grad_()
    levels = torch.tensor([[0, 1, 0], [-1, 0, 1]])

    def warp(boxes, *maps):
        return kernels.roi_warp(maps, boxes, levels, strides=[4, 8], size=3)

    assert torch.autograd.gradcheck(warp, (boxes, *maps), eps=1e-6, atol=1e-7)


def test_the_fast_gradients_are_the_plain_ones(pyramid, rois):
    boxes, levels = rois
    grad = torch.randn(*levels.shape, 5, 4, 4, generator=torch.Generator().manual_seed(4))
    mine, corners = form("cpu").roi_warp_backward(grad, pyramid, boxes, levels, STRIDES)
    plain, expected = reference.roi_warp_backward(grad, pyramid, boxes, levels, STRIDES)
    for a, b in zip(mine, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    away = ~((boxes[..., 2:] - boxes[..., :2]).abs() < 1e-3).any(-1)  # samples on a pixel's centre have two slopes
    assert torch.allclose(corners[away], expected[away], atol=2e-3, rtol=1e-3)
    assert not corners[levels < 0].any()


def test_boxes_that_are_no_numbers_and_no_boxes_at_all_are_survived(warping, pyramid):
    levels = torch.zeros(2, 1, dtype=torch.int64)
    boxes = torch.full((2, 1, 4), float("nan"))
    assert warping.roi_warp(pyramid, boxes, levels, STRIDES, 2).isfinite().all()
    none = warping.roi_warp(pyramid, boxes[:, :0], levels[:, :0], STRIDES, 2)
    assert none.shape == (2, 0, 5, 2, 2)
    maps, corners = warping.roi_warp_backward(none, pyramid, boxes[:, :0], levels[:, :0], STRIDES)
    assert not any(m.any() for m in maps)
    assert corners.shape == (2, 0, 4)


def test_the_plain_form_which_gpus_run_copies_no_numbers_to_the_device(pyramid, rois):
    copied = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.overloadpacket.__name__ in ("lift_fresh", "_local_scalar_dense", "nonzero"):
                copied.append(operator.overloadpacket.__name__)
            return operator(*args, **(kwargs or {}))

    with Watch():
        warped = reference.roi_warp(pyramid, *rois, STRIDES, 3)
        reference.roi_warp_backward(warped, pyramid, *rois, STRIDES)
    assert copied == []


def test_half_types_are_computed_in_float32(warping, pyramid, rois):
    boxes, levels = rois
    half = [m.bfloat16() for m in pyramid]
    warped = warping.roi_warp(half, boxes, levels, STRIDES, 3)
    expected = warping.roi_warp([m.float() for m in half], boxes, levels, STRIDES, 3)
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped, expected.bfloat16())


def test_it_compiles_into_one_graph_and_traces_with_its_gradients(pyramid, rois):
    boxes, levels = rois

    def loss(boxes, *maps):
        return kernels.roi_warp(maps, boxes, levels, strides=STRIDES, size=3).square().sum()

    eager = torch.autograd.grad(loss(boxes.requires_grad_(), *pyramid), boxes)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.autograd.grad(compiled(boxes, *pyramid), boxes)[0], eager)
