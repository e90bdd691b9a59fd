"""Position-sensitive RoI pooling against loops by Caffe's rule, torchvision, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn import kernels
from rcnn.kernels import reference
from rcnn.kernels.forms import form

RULES = ["caffe", "torchvision", "align"]
STRIDE, OUTPUTS = 8.0, 5


def some_map(size, height=16, width=20, images=2, dtype=torch.float32):
    """Maps [images, size²·OUTPUTS, height, width], channels-last."""
    torch.manual_seed(0)
    feature = torch.randn(images, size * size * OUTPUTS, height, width, dtype=dtype)
    return feature.contiguous(memory_format=torch.channels_last)


def half_up(x):
    """C's round: to the nearest whole number, half away from zero."""
    return math.copysign(math.floor(abs(x) + 0.5), x)


def f32(x):
    """A number as float32 holds it: the edges of the released code's bins are computed in that."""
    return torch.tensor(x, dtype=torch.float32).item()


def slow_caffe(feature, box, stride, size):
    """The released code's rule for one image's map in the code's own channel order, number by number."""
    channels, height, width = feature.shape
    scale = f32(1 / stride)
    x1, y1, x2, y2 = box.tolist()
    left, top = f32(half_up(x1) * scale), f32(half_up(y1) * scale)
    right, bottom = f32((half_up(x2) + 1) * scale), f32((half_up(y2) + 1) * scale)
    bin_width = f32(max(f32(right - left), f32(0.1)) / size)
    bin_height = f32(max(f32(bottom - top), f32(0.1)) / size)
    pooled = torch.zeros(channels // size**2, size, size)
    for d in range(channels // size**2):
        for i in range(size):
            for j in range(size):
                y_first = min(max(math.floor(f32(f32(i * bin_height) + top)), 0), height)
                y_last = min(max(math.ceil(f32(f32((i + 1) * bin_height) + top)), 0), height)
                x_first = min(max(math.floor(f32(f32(j * bin_width) + left)), 0), width)
                x_last = min(max(math.ceil(f32(f32((j + 1) * bin_width) + left)), 0), width)
                total, count = 0.0, 0
                for y in range(y_first, y_last):
                    for x in range(x_first, x_last):
                        total += feature[(d * size + i) * size + j, y, x].item()
                        count += 1
                pooled[d, i, j] = total / count if count else 0.0
    return pooled


def torchvision_pool(feature, boxes, valid, size, rule, sampling_ratio):
    """torchvision's operator in its own channel order, on the valid RoIs."""
    pooled = torch.zeros(*valid.shape, OUTPUTS, size, size, dtype=feature.dtype)
    maps = kernels.to_caffe_order(feature.transpose(0, 1), size).transpose(0, 1).contiguous()
    for b in range(len(boxes)):
        rois = [boxes[b][valid[b]].to(feature.dtype)]
        if rule == "align":
            found = torchvision.ops.ps_roi_align(maps[b : b + 1], rois, size, 1 / STRIDE, sampling_ratio or -1)
        else:
            found = torchvision.ops.ps_roi_pool(maps[b : b + 1], rois, size, 1 / STRIDE)
        pooled[b, valid[b]] = found
    return pooled


@pytest.mark.parametrize("size", [3, 7])
def test_every_form_follows_caffes_rule(kernels_form, plain, rois, size):
    boxes, valid = rois[0][:, :16] * 1.013, rois[1][:, :16] >= 0
    feature = some_map(size)
    maps = kernels.to_caffe_order(feature.transpose(0, 1), size).transpose(0, 1)
    for b, n in [(0, n) for n in range(16)] + [(1, n) for n in range(10, 16)]:
        expected = slow_caffe(maps[b], boxes[b, n], STRIDE, size) if valid[b, n] else torch.zeros(OUTPUTS, size, size)
        for run in (kernels_form, plain):
            one = slice(b, b + 1)
            pooled = run.ps_roi_pool(
                feature[one], boxes[one, n : n + 1], valid[one, n : n + 1], STRIDE, size, "caffe", 2
            )
            pooled = pooled[0, 0].T.view(OUTPUTS, size, size)
            torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize(("rule", "sampling_ratio"), [("torchvision", 2), ("align", 2), ("align", 0)])
def test_the_result_and_its_gradient_equal_torchvisions(rois, rule, sampling_ratio, size):
    keep = ((rois[0][..., 2:] - rois[0][..., :2]) > 0).all(-1)  # torchvision divides an empty RoI by no samples
    boxes, valid = rois[0], (rois[1] >= 0) & (keep | (rule != "align"))
    leaf = some_map(size).requires_grad_()
    options = {"stride": STRIDE, "size": size, "rule": rule, "sampling_ratio": sampling_ratio}
    ours = kernels.ps_roi_pool(leaf, boxes, valid, **options)
    theirs = torchvision_pool(leaf, boxes, valid, size, rule, sampling_ratio)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    given = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    if rule == "torchvision":  # its backward pass reads the last row and column, which its forward pass does not
        inside = (boxes[..., 2:] < STRIDE * torch.tensor([20 - 2, 16 - 2])).all(-1)
        given = given * inside[..., None, None, None]
    (a,), (b,) = torch.autograd.grad(ours, leaf, given), torch.autograd.grad(theirs, leaf, given)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_every_form_equals_plain_torch_forward_and_backward(kernels_form, plain, rois, rule, sampling_ratio):
    feature, valid = some_map(3), rois[1] >= 0
    arguments = (rois[0], valid, STRIDE)
    pooled = kernels_form.ps_roi_pool(feature, *arguments, 3, rule, sampling_ratio)
    torch.testing.assert_close(
        pooled, plain.ps_roi_pool(feature, *arguments, 3, rule, sampling_ratio), rtol=0, atol=1e-5
    )
    given = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    sides = (rois[0], valid, 16, 20, STRIDE, rule, sampling_ratio)
    gradient = kernels_form.ps_roi_pool_backward(given, *sides)
    torch.testing.assert_close(gradient, plain.ps_roi_pool_backward(given, *sides), rtol=1e-5, atol=1e-4)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_that_of_finite_differences(rule):
    feature = some_map(2, 6, 5, images=1, dtype=torch.float64)[:, :8].requires_grad_()  # two outputs
    boxes = torch.tensor([[[2.0, 3, 37, 34], [-6, -6, 9, 9], [5, 5, 30, 40], [1, 1, 2, 2], [9, 9, 30, 30]]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert torch.autograd.gradcheck(
        lambda f: kernels.ps_roi_pool(f, boxes, valid, stride=STRIDE, size=2, rule=rule), [feature]
    )


def test_each_bin_reads_its_own_maps():
    """The paper's point: a map of ones for one bin and output answers in that bin and output alone."""
    for channel in range(9 * OUTPUTS):
        feature = torch.zeros(1, 9 * OUTPUTS, 12, 12)
        feature[0, channel] = 1
        boxes = torch.tensor([[[8.0, 8, 80, 80]]])
        pooled = kernels.ps_roi_pool(feature, boxes, torch.ones(1, 1, dtype=torch.bool), stride=STRIDE, size=3)[0, 0]
        bin, output = channel // OUTPUTS, channel % OUTPUTS
        assert pooled[output, bin // 3, bin % 3] == pytest.approx(1)
        assert pooled.sum() == pytest.approx(1)


def test_the_two_channel_orders_turn_into_each_other():
    ours = torch.arange(4 * 9 * 2).view(36, 2)  # D = 4, k = 3
    theirs = kernels.to_caffe_order(ours, 3)
    for d in range(4):
        for bin in range(9):
            assert torch.equal(theirs[d * 9 + bin], ours[bin * 4 + d])
    assert torch.equal(kernels.from_caffe_order(theirs, 3), ours)


@pytest.mark.parametrize("rule", RULES)
def test_awkward_rois_read_nothing_out_of_bounds(rule):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan] * 4, [0, nan, 9, 9], [-inf, 0, inf, 9], [0, 0, 1e30, 1e30], [-1e30, 0, 1e30, 9]]])
    leaf = some_map(3, images=1).requires_grad_()
    for sampling_ratio in (2, 0):
        pooled = kernels.ps_roi_pool(
            leaf, boxes, torch.ones(1, 5, dtype=torch.bool), stride=STRIDE, size=3, rule=rule,
            sampling_ratio=sampling_ratio,
        )  # fmt: skip
        assert pooled.isfinite().all()
        assert not pooled[0, 0].any()
        assert torch.autograd.grad(pooled.sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_are_computed_in_float32(rois, dtype):
    leaf, valid = some_map(3).to(dtype).requires_grad_(), rois[1] >= 0
    pooled = kernels.ps_roi_pool(leaf, rois[0], valid, stride=STRIDE, size=3)
    exact = kernels.ps_roi_pool(leaf.detach().float(), rois[0], valid, stride=STRIDE, size=3)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, exact.to(dtype))
    pooled.float().sum().backward()
    assert leaf.grad.dtype == dtype


@pytest.mark.parametrize("rule", RULES)
def test_threads_and_memory_format_change_nothing(rois, rule):
    before, results = torch.get_num_threads(), []
    valid = rois[1] >= 0
    try:
        for count, layout in ((1, torch.channels_last), (2, torch.channels_last), (3, torch.contiguous_format)):
            torch.set_num_threads(count)
            leaf = some_map(7).contiguous(memory_format=layout).requires_grad_()
            pooled = kernels.ps_roi_pool(leaf, rois[0], valid, stride=STRIDE, size=7, rule=rule)
            given = torch.sin(torch.arange(pooled.numel())).view_as(pooled)
            results.append((pooled, torch.autograd.grad(pooled, leaf, given)[0]))
    finally:
        torch.set_num_threads(before)
    for pooled, gradient in results[1:]:
        assert torch.equal(pooled, results[0][0])
        assert torch.equal(gradient, results[0][1])


edge = st.floats(-40, 200, width=32)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(edge, edge, edge, edge), min_size=1, max_size=4), st.sampled_from(RULES), st.integers(0, 3))
def test_whatever_the_boxes_the_forms_agree(rows, rule, sampling_ratio):
    feature = torch.randn(1, 9 * 2, 9, 13, generator=torch.Generator().manual_seed(0))
    arguments = (feature, torch.tensor([rows]), torch.ones(1, len(rows), dtype=torch.bool), 8.0, 3, rule)
    torch.testing.assert_close(
        form("cpu").ps_roi_pool(*arguments, sampling_ratio),
        reference.ps_roi_pool(*arguments, sampling_ratio),
        rtol=0,
        atol=1e-5,
    )


def test_it_is_an_operator_that_compiles_whole(rois):
    leaf, valid = some_map(3).requires_grad_(), rois[1] >= 0
    torch.library.opcheck(torch.ops.rcnn.ps_roi_pool.default, (leaf, rois[0], valid, STRIDE, 3, "caffe", 2))
    given = torch.randn(*valid.shape, 9, OUTPUTS)
    sides = (given, rois[0], valid, 16, 20, STRIDE, "align", 2)
    torch.library.opcheck(torch.ops.rcnn.ps_roi_pool_backward.default, sides)

    def pool(feature):
        return kernels.ps_roi_pool(feature, rois[0], valid, stride=STRIDE, size=3).square().sum()

    expected = torch.autograd.grad(pool(leaf), leaf)[0]
    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    assert torch.equal(torch.autograd.grad(compiled(leaf), leaf)[0], expected)
