"""RoIAlign and RoIPool against plain torch, torchvision, loops over single values, and finite differences."""

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

STRIDES = [4.0, 8.0, 16.0]


def pool(features, boxes, levels, kind="align", size=3, **options):
    """One of the two operators, by its public function."""
    run = {"align": kernels.roi_align, "pool": kernels.roi_pool}[kind]
    return run(features, boxes, levels, strides=STRIDES[: len(features)], size=size, **options)


def slow_roi_align(feature, box, stride, size, sampling_ratio, aligned):
    """RoIAlign of one map [C, H, W] and box, sample by sample, corner by corner."""
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (v / stride - (0.5 if aligned else 0) for v in box.tolist())
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1), max(h, 1)
    ny = sampling_ratio or max(0, math.ceil(h / size))
    nx = sampling_ratio or max(0, math.ceil(w / size))
    pooled = torch.zeros(channels, size, size)
    for p in range(size):
        for q in range(size):
            for i in range(ny):
                for j in range(nx):
                    y = y1 + (p + (i + 0.5) / ny) * h / size
                    x = x1 + (q + (j + 0.5) / nx) * w / size
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    for yy in {math.floor(y), math.ceil(y)}:
                        for xx in {math.floor(x), math.ceil(x)}:
                            share = (1 - abs(y - yy)) * (1 - abs(x - xx)) / (ny * nx)
                            pooled[:, p, q] += share * feature[:, yy, xx]
    return pooled


def torchvision_pool(kind, features, boxes, levels, size, **options):
    """torchvision's operator, RoI by RoI."""
    pooled = torch.zeros(*levels.shape, features[0].shape[1], size, size, dtype=features[0].dtype)
    for b, row in enumerate(levels.tolist()):
        for n, level in enumerate(row):
            if level >= 0:
                arguments = (features[level][b : b + 1], [boxes[b, n : n + 1].to(features[0].dtype)], size)
                if kind == "align":
                    out = torchvision.ops.roi_align(*arguments, 1 / STRIDES[level], **options)
                else:
                    out = torchvision.ops.roi_pool(*arguments, 1 / STRIDES[level])
                pooled[b, n] = out[0]
    return pooled


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 0])
def test_every_form_of_roi_align_equals_the_definition(kernels_form, plain, pyramid, rois, sampling_ratio, aligned):
    boxes, levels = rois[0][:, :16], rois[1][:, :16]
    boxes = boxes.clamp(-200, 400) * 1.013  # the loop is slow, and in float64: no sample on the very edge
    expected = torch.zeros(2, 16, 5, 3, 3)
    for b in range(2):
        for n in range(16):
            if levels[b, n] >= 0:
                feature, stride = pyramid[levels[b, n]][b], STRIDES[levels[b, n]]
                expected[b, n] = slow_roi_align(feature, boxes[b, n], stride, 3, sampling_ratio, aligned)
    for run in (kernels_form, plain):
        pooled = run.roi_align(pyramid, boxes, levels, STRIDES, 3, sampling_ratio, aligned)
        torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_roi_align_and_its_gradient_equal_torchvisions(pyramid, rois, sampling_ratio, aligned):
    leaves = [f.clone().requires_grad_() for f in pyramid]
    ours = pool(leaves, *rois, sampling_ratio=sampling_ratio, aligned=aligned)
    theirs = torchvision_pool("align", leaves, *rois, 3, sampling_ratio=sampling_ratio or -1, aligned=aligned)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    given = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for a, b in zip(torch.autograd.grad(ours, leaves, given), torch.autograd.grad(theirs, leaves, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_roi_pool_and_its_gradient_equal_torchvisions_exactly(pyramid, rois):
    leaves = [f.clone().requires_grad_() for f in pyramid]
    ours = pool(leaves, *rois, kind="pool", size=7)
    theirs = torchvision_pool("pool", leaves, *rois, 7)
    assert torch.equal(ours, theirs)
    given = torch.randint(-8, 9, ours.shape, generator=torch.Generator().manual_seed(2)).float()  # sums are exact
    for a, b in zip(torch.autograd.grad(ours, leaves, given), torch.autograd.grad(theirs, leaves, given), strict=True):
        assert torch.equal(a, b)


def test_roi_pool_rounds_halves_away_from_zero_and_includes_the_end():
    feature = torch.arange(64.0).view(1, 1, 8, 8)
    boxes = torch.tensor([[[10.0, 10, 14, 14], [-2, -2, 6, 6], [100, 100, 120, 120]]])  # 2.5 … 3.5; -0.5 … 1.5
    pooled = kernels.roi_pool([feature], boxes, torch.zeros(1, 3, dtype=torch.int64), strides=[4], size=1)
    assert pooled.flatten().tolist() == [4 * 8 + 4, 2 * 8 + 2, 0]
    feature = -feature - 1  # so that the maximum shows the first pixel: 3, not 2; and 0, the map's edge
    pooled = kernels.roi_pool([feature], boxes, torch.zeros(1, 3, dtype=torch.int64), strides=[4], size=1)
    assert pooled.flatten().tolist() == [-(3 * 8 + 3) - 1, -1, 0]


@pytest.mark.parametrize("size", [2, 7])
def test_every_form_of_roi_pool_equals_plain_torch(kernels_form, plain, pyramid, rois, size):
    arguments = (pyramid, *rois, STRIDES, size)
    assert torch.equal(kernels_form.roi_pool(*arguments), plain.roi_pool(*arguments))


@pytest.mark.parametrize("options", [{"sampling_ratio": 2}, {"sampling_ratio": 0}, {"aligned": False}])
def test_the_gradient_of_roi_align_is_that_of_finite_differences(options):
    torch.manual_seed(0)
    features = [torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    boxes = torch.tensor([[[2.0, 3, 17, 14], [-6, -6, 9, 9], [5, 5, 30, 40], [1, 1, 2, 2]]])
    levels = torch.tensor([[0, 0, 1, -1]])
    assert torch.autograd.gradcheck(lambda *f: pool(f, boxes, levels, size=2, **options), features)


def test_the_gradient_of_roi_pool_is_that_of_finite_differences():
    torch.manual_seed(0)
    features = [torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    boxes = torch.tensor([[[2.0, 3, 17, 14], [-6, -6, 9, 9], [5, 5, 30, 40], [1, 1, 2, 2]]])
    assert torch.autograd.gradcheck(lambda *f: pool(f, boxes, torch.tensor([[0, 0, 1, -1]]), "pool", 2), features)


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_each_forms_backward_is_plain_torchs(kernels_form, plain, pyramid, rois, kind):
    given = torch.randn(*rois[1].shape, 5, 3, 3, generator=torch.Generator().manual_seed(2))
    if kind == "align":
        sides = [[f.shape[2] for f in pyramid], [f.shape[3] for f in pyramid]]
        arguments = (given, *rois, *sides, STRIDES, 2, True)
    else:
        arguments = (given, pyramid, *rois, STRIDES)
    name = f"roi_{kind}_backward"
    for a, b in zip(getattr(kernels_form, name)(*arguments), getattr(plain, name)(*arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert a.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_padded_rois_are_zeros_and_send_no_gradient(pyramid, rois, kind):
    leaves = [f.clone().requires_grad_() for f in pyramid]
    pooled = pool(leaves, rois[0], torch.full_like(rois[1], -1), kind)
    assert pooled.shape == (2, 31, 5, 3, 3)
    assert not pooled.any()
    for gradient in torch.autograd.grad(pooled.sum(), leaves):
        assert not gradient.any()


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_several_levels_at_once_equal_one_after_the_other(pyramid, rois, kind):
    boxes, levels = rois
    together = pool(pyramid, boxes, levels, kind)
    run = {"align": kernels.roi_align, "pool": kernels.roi_pool}[kind]
    for level, (feature, stride) in enumerate(zip(pyramid, STRIDES, strict=True)):
        alone = run([feature], boxes, torch.zeros_like(levels), strides=[stride], size=3)
        assert torch.equal(together[levels == level], alone[levels == level])


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_boxes_that_are_not_numbers_read_nothing_out_of_bounds(pyramid, kind):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan, nan, nan, nan], [0, nan, 9, 9], [-inf, 0, inf, 9], [0, 0, 1e30, 1e30]]]).expand(
        2, 4, 4
    )
    levels = torch.zeros(2, 4, dtype=torch.int64)
    for options in ({}, {"sampling_ratio": 0}) if kind == "align" else ({},):
        leaves = [f.clone().requires_grad_() for f in pyramid]
        pool(leaves, boxes, levels, kind, **options).sum().backward()
        assert not leaves[1].grad.any()


@pytest.mark.parametrize("kind", ["align", "pool"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_are_computed_in_float32(pyramid, rois, kind, dtype):
    halves = [f.to(dtype).requires_grad_() for f in pyramid]
    pooled = pool(halves, *rois, kind)
    exact = pool([f.detach().float() for f in halves], *rois, kind)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, exact.to(dtype))
    pooled.float().sum().backward()
    assert halves[0].grad.dtype == dtype


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_memory_format_of_the_features_changes_nothing(pyramid, rois, kind):
    assert torch.equal(pool(pyramid, *rois, kind), pool([f.contiguous() for f in pyramid], *rois, kind))
    assert pool(pyramid, *rois, kind).is_contiguous()


@pytest.mark.parametrize("kind", ["align", "pool"])
def test_the_gradient_is_the_same_to_the_bit_whatever_the_threads(kind):
    torch.manual_seed(0)
    feature = torch.randn(2, 70, 40, 50)
    corner = torch.rand(2, 200, 2) * 120
    boxes, levels = torch.cat((corner, corner + torch.rand(2, 200, 2) * 80), -1), torch.zeros(2, 200, dtype=torch.int64)
    before, gradients = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            leaf = feature.clone().requires_grad_()
            pooled = pool([leaf], boxes, levels, kind, 7)
            gradients.append(
                torch.autograd.grad(pooled, leaf, torch.sin(torch.arange(pooled.numel())).view_as(pooled))[0]
            )
    finally:
        torch.set_num_threads(before)
    for gradient in gradients[1:]:
        assert torch.equal(gradient, gradients[0])


edge = st.floats(-40, 200, width=32)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(edge, edge, edge, edge), min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_whatever_the_boxes_the_forms_agree(rows, sampling_ratio, aligned):
    feature = torch.randn(1, 3, 9, 13, generator=torch.Generator().manual_seed(0))
    boxes, levels = torch.tensor([rows]), torch.zeros(1, len(rows), dtype=torch.int64)
    align = ([feature], boxes, levels, [8.0], 4, sampling_ratio, aligned)
    torch.testing.assert_close(form("cpu").roi_align(*align), reference.roi_align(*align), rtol=0, atol=1e-4)
    arguments = ([feature], boxes, levels, [8.0], 4)
    assert torch.equal(form("cpu").roi_pool(*arguments), reference.roi_pool(*arguments))


def test_they_are_operators_that_compile_whole(pyramid, rois):
    leaves = [f.clone().requires_grad_() for f in pyramid]
    torch.library.opcheck(torch.ops.rcnn.roi_align.default, (leaves, *rois, STRIDES, 3, 2, True))
    torch.library.opcheck(torch.ops.rcnn.roi_pool.default, (leaves, *rois, STRIDES, 3))
    given = torch.randn(*rois[1].shape, 5, 3, 3)
    sides = [[f.shape[2] for f in pyramid], [f.shape[3] for f in pyramid]]
    torch.library.opcheck(torch.ops.rcnn.roi_align_backward.default, (given, *rois, *sides, STRIDES, 2, True))
    torch.library.opcheck(torch.ops.rcnn.roi_pool_backward.default, (given, pyramid, *rois, STRIDES))

    def both(*maps):
        return pool(maps, *rois).sum() + pool(maps, *rois, kind="pool").square().sum()

    expected = torch.autograd.grad(both(*leaves), leaves)
    compiled = torch.compile(both, fullgraph=True, backend="eager")
    for a, b in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        assert torch.equal(a, b)
