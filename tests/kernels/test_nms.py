"""NMS against the definition, torchvision and itself."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rcnn.kernels import nms, reference, torchvision_ops
from rcnn.kernels.forms import form


def crowd(images: int, boxes: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Overlapping boxes with tied scores, some invalid, in three groups."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, boxes, 2, generator=generator) * 60
    box = torch.cat((corner, corner + torch.rand(images, boxes, 2, generator=generator) * 50), -1)
    scores = torch.randint(0, 20, (images, boxes), generator=generator) / 20
    valid = torch.rand(images, boxes, generator=generator) > 0.2
    return box, scores, valid, torch.randint(0, 3, (images, boxes), generator=generator)


@pytest.mark.parametrize("capacity", [1, 7, 200])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_form_keeps_what_the_definition_keeps(kernels_form, capacity, threshold, grouped):
    boxes, scores, valid, groups = crowd(3, 120)
    arguments = (boxes, scores, valid, groups if grouped else None, threshold, capacity)
    for found, expected in zip(kernels_form.nms(*arguments), reference.nms(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_it_equals_torchvision():
    boxes, scores, _, groups = crowd(1, 500)
    scores = torch.rand(scores.shape, generator=torch.Generator().manual_seed(3))
    index, count = nms(boxes, scores, torch.ones(1, 500, dtype=torch.bool), groups, threshold=0.5, capacity=500)
    expected = torchvision.ops.batched_nms(boxes[0], scores[0], groups[0], 0.5)
    assert index[0, : count[0]].tolist() == expected.tolist()


def test_equal_scores_keep_the_lower_index_first():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]]])
    index, count = nms(boxes, torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), threshold=0.5, capacity=3)
    assert (index.tolist(), count.tolist()) == ([[0, 1, 0]], [2])


def test_invalid_boxes_are_not_kept_and_suppress_nothing():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9]]])
    valid = torch.tensor([[False, True]])
    index, count = nms(boxes, torch.tensor([[0.9, 0.1]]), valid, threshold=0.5, capacity=2)
    assert (index.tolist(), count.tolist()) == ([[1, 0]], [1])


@pytest.mark.parametrize("at_once", [1, 250, 1 << 20])
def test_torchvisions_form_keeps_the_same_whether_images_go_alone_or_together(monkeypatch, at_once):
    monkeypatch.setattr(torchvision_ops, "_AT_ONCE", at_once)
    arguments = (*crowd(5, 120), 0.4, 60)
    for found, expected in zip(torchvision_ops.nms(*arguments), reference.nms(*arguments), strict=True):
        assert torch.equal(found, expected)


def test_torchvisions_form_asks_the_gpu_once_a_batch():
    """What makes a program wait for a GPU: a value read, or a result whose size depends on values."""
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "nms"):
                asked.append(operator.overloadpacket.__name__)
            return operator(*args, **(kwargs or {}))

    boxes, scores, valid, groups = crowd(6, 50)
    with Watch():
        torchvision_ops.nms(boxes, scores, valid, groups, 0.5, 20)
    assert asked == ["nms"]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_an_overlap_of_exactly_the_threshold_is_compared_with_the_number_itself(kernels_form, threshold):
    # IoU 0.3 and 0.7 in float32 lie above and below the numbers; what counts is the number, not its float32 form.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10 * threshold]]])
    iou = torch.tensor(float(boxes[0, 1, 3])) * 10 / 100
    _, count = kernels_form.nms(boxes, torch.tensor([[2.0, 1]]), torch.ones(1, 2, dtype=torch.bool), None, threshold, 2)
    if kernels_form is not torchvision_ops:  # which computes the IoU in float64
        assert int(count) == (1 if iou.item() > threshold else 2)


def test_groups_may_be_any_numbers(kernels_form):
    boxes, scores, valid, groups = crowd(2, 60)
    apart = torch.tensor([-7, 3, 1 << 20])[groups]
    found = kernels_form.nms(boxes, scores, valid, apart, 0.3, 60)
    for a, b in zip(found, reference.nms(boxes, scores, valid, groups, 0.3, 60), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("images", "boxes"), [(0, 5), (2, 0), (1, 1)])
def test_nothing_to_keep_gives_a_result_of_the_same_shape(kernels_form, images, boxes):
    box, scores, valid, groups = crowd(images, boxes)
    index, count = kernels_form.nms(box, scores, torch.zeros_like(valid), groups, 0.5, 4)
    assert index.shape == (images, 4)
    assert count.tolist() == [0] * images


whole = st.integers(0, 12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(whole, whole, whole, whole, st.integers(0, 4), st.booleans()), max_size=25), st.data())
def test_whatever_the_boxes_all_forms_agree(rows, data):
    table = torch.tensor(rows, dtype=torch.float32).reshape(1, -1, 6)
    boxes, scores, valid = table[..., :4], table[..., 4], table[..., 5] > 0
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))[None]
    arguments = (boxes.contiguous(), scores, valid, groups.long(), 0.25, 10)
    expected = reference.nms(*arguments)
    for found in (form("cpu").nms(*arguments), torchvision_ops.nms(*arguments)):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_it_is_an_operator_that_compiles_whole():
    boxes, scores, valid, groups = crowd(2, 30)
    torch.library.opcheck(torch.ops.rcnn.nms.default, (boxes, scores, valid, groups, 0.5, 8))
    torch.library.opcheck(torch.ops.rcnn.nms.default, (boxes, scores, valid, None, 0.5, 8))
    compiled = torch.compile(
        lambda b: nms(b, scores, valid, groups, threshold=0.5, capacity=8)[0] + 1, fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(boxes), nms(boxes, scores, valid, groups, threshold=0.5, capacity=8)[0] + 1)
