import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from rcnn import boxes as box_ops
from rcnn.boxes import BoxCoder

coordinate = st.floats(-2000, 2000, width=32)
side = st.floats(0.5, 1500, width=32)


@st.composite
def proper_boxes(draw, most=6):
    rows = draw(st.lists(st.tuples(coordinate, coordinate, side, side), min_size=1, max_size=most))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)


def slow_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


@given(proper_boxes(), proper_boxes())
def test_iou_is_the_shared_area_over_the_joint_area(a, b):
    expected = [[slow_iou(p.double().tolist(), q.double().tolist()) for q in b] for p in a]
    assert torch.allclose(box_ops.iou(a, b), torch.tensor(expected, dtype=torch.float32), atol=2e-3)
    assert torch.allclose(box_ops.iou(a, b), box_iou(a, b), atol=1e-6)


def test_empty_boxes_overlap_nothing_and_nothing_is_not_a_number():
    empty = torch.tensor([[3.0, 3, 3, 3], [9.0, 9, 2, 2]])
    assert box_ops.iou(empty, empty).eq(0).all()
    assert box_ops.covered(empty, torch.tensor([[0.0, 0, 10, 10]])).eq(0).all()


def test_covered_is_the_share_of_the_first_box_only():
    small, large = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 1, 100]])
    assert box_ops.covered(small, large).item() == pytest.approx(0.5)


@given(proper_boxes(1), proper_boxes(1), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_decoding_undoes_encoding(boxes, references, weights):
    coder = BoxCoder(weights)
    deltas = coder.encode(boxes, references)
    size = boxes[..., 2:] - boxes[..., :2]
    if ((size / (references[..., 2:] - references[..., :2])) > 60).any():
        return  # cut by design
    decoded = coder.decode(deltas, references)
    assert torch.allclose(decoded, boxes, rtol=1e-4, atol=1e-3 * float(1 + references.abs().max()))


def test_coding_is_that_of_the_paper():
    # Girshick et al. 2014, appendix C, by hand: P centred (10, 20) of 20 × 40, G centred (14, 18) of 40 × 20.
    reference = torch.tensor([[0.0, 0, 20, 40]])
    goal = torch.tensor([[-6.0, 8, 34, 28]])
    expected = [4 / 20, -2 / 40, math.log(2), math.log(0.5)]
    assert BoxCoder().encode(goal, reference)[0].tolist() == pytest.approx(expected)
    classic = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode(goal, reference)[0]
    assert classic.tolist() == pytest.approx([v / s for v, s in zip(expected, (0.1, 0.1, 0.2, 0.2), strict=True)])


def test_a_wild_delta_stays_finite():
    wild = BoxCoder().decode(torch.tensor([[0.0, 0, 1000, 1000]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert wild.isfinite().all()
    assert (wild[0, 2] - wild[0, 0]).item() == pytest.approx(1000, rel=1e-4)


def test_half_precision_deltas_are_decoded_in_float32():
    deltas = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    references = torch.tensor([[100.0, 100, 900, 700]])
    full = BoxCoder().decode(deltas.bfloat16().float(), references)
    assert BoxCoder().decode(deltas.bfloat16(), references).dtype == torch.float32
    assert torch.equal(BoxCoder().decode(deltas.bfloat16(), references), full)


@given(proper_boxes(4))
def test_clipped_boxes_lie_inside_their_own_image(boxes):
    sizes = torch.tensor([[100.0, 200.0], [50.0, 60.0]])
    clipped = box_ops.clip(boxes.expand(2, *boxes.shape), sizes)
    for image, (height, width) in zip(clipped, sizes.tolist(), strict=True):
        assert image[:, 0::2].min() >= 0
        assert image[:, 0::2].max() <= width
        assert image[:, 1::2].min() >= 0
        assert image[:, 1::2].max() <= height


def test_shifted_boxes_are_kept_by_nms_as_torchvisions_batched_nms_keeps_them():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1, 400, 2, generator=generator) * 1000
    boxes = torch.cat((first, first + 20 + torch.rand(1, 400, 2, generator=generator) * 200), 2)
    groups = torch.randint(1, 90, (1, 400), generator=generator)
    valid = torch.rand(1, 400, generator=generator) > 0.2
    moved = box_ops.shifted(boxes, groups, valid)
    chosen = boxes[0, valid[0]]
    offsets = groups[0, valid[0]].to(chosen) * (chosen.max() + 1)
    assert torch.equal(moved[0, valid[0]], chosen + offsets[:, None])
    assert not torch.equal(moved - moved[..., :1], boxes - boxes[..., :1])  # it rounds


def test_a_crowd_is_not_shifted():
    boxes = torch.rand(2, 1001, 4)
    valid = torch.ones(2, 1001, dtype=torch.bool)
    valid[1, 0] = False
    moved = box_ops.shifted(boxes, torch.ones(2, 1001, dtype=torch.int64), valid)
    assert torch.equal(moved[0], boxes[0])
    assert not torch.equal(moved[1], boxes[1])
