"""Mask targets against loops over pixels of drawn masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcnn import rle
from rcnn.data.collate import collate_masks
from rcnn.data.dataset import Truth
from rcnn.data.segments import Frame, run_lengths
from rcnn.targets import cut, cut_aligned
from rcnn.targets.masks import COLUMNS


def truth_of(masks, frame=None, ignored=()):
    count = len(masks)
    flags = np.array([g in ignored for g in range(count)], bool)
    segments = [None if mask is None else run_lengths(mask) for mask in masks]
    boxes = np.zeros((count, 4), np.float32)
    return Truth(boxes, np.zeros(count, np.int64), flags, np.zeros(count, bool), segments, frame=frame)


def slow_cut(mask, box, size, frame):
    """The share of each cell: along the columns looked at, pixel by pixel."""
    height = len(mask)
    (sx, sy), (tx, ty) = frame.scale, frame.shift
    left, top, right, bottom = frame.visible
    result = np.zeros((size, size))
    for i in range(size):
        y0, y1 = (sy * (box[1] + (box[3] - box[1]) * (i + k) / size) + ty for k in (0, 1))
        for j in range(size):
            for t in range(COLUMNS):
                x = sx * (box[0] + (box[2] - box[0]) * (j + (t + 0.5) / COLUMNS) / size) + tx
                if left <= x < right:
                    low, high = min(y0, y1), max(y0, y1)
                    on = sum(
                        max(min(high, bottom, y + 1) - max(low, top, y), 0) for y in range(height) if mask[y, int(x)]
                    )
                    result[i, j] += on / abs(y1 - y0) / COLUMNS
    return result


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    blob = np.zeros((30, 40), bool)
    blob[5:25, 8:30] = True
    blob[10:15, 12:20] = False
    return [rng.random((30, 40)) < 0.5, blob, np.ones((30, 40), bool), rng.random((30, 40)) < 0.05]


BOXES = torch.tensor(
    [
        [[0.0, 0, 40, 30], [8.3, 5.2, 30.1, 24.9], [12.5, 3.1, 13.2, 4.0], [-10, -8, 20, 40], [30, 20, 60, 44]],
        [[5.0, 2, 17, 14], [0, 0, 40, 30], [3, 3, 38, 5], [39.5, 29.5, 40, 30], [60, 60, 70, 80]],
    ]
)


@pytest.mark.parametrize(
    "frame",
    [
        Frame((30, 40)),
        Frame((30, 40), (0.5, 0.8), (3.0, -2.5)),
        Frame((30, 40), (-1.0, 1.0), (40.0, 0.0)),
        Frame((30, 40), (0.7, -1.3), (-4.0, 33.0)),
        Frame((30, 40), (1.0, 0.9), (2.0, 1.0), (4.0, 6.5, 31.0, 22.0)),
    ],
)
def test_targets_are_those_of_a_loop_over_pixels(masks, frame):
    truths = [truth_of(masks[:2], frame), truth_of(masks, frame)]
    stored = collate_masks(truths, [(30, 40)] * 2, 4)
    matched = torch.tensor([[0, 1, 0, 1, 0], [3, 2, 1, 0, 1]])
    found = cut(stored, BOXES, matched, 5)
    for b in range(2):
        for p, box in enumerate(BOXES[b].tolist()):
            expected = slow_cut(masks[matched[b, p]], box, 5, frame)
            np.testing.assert_allclose(found[b, p], expected, atol=2e-5)


def test_objects_without_a_mask_and_ignored_ones_are_nothing(masks):
    stored = collate_masks([truth_of([masks[2], None, masks[2]], ignored=(2,))], [(30, 40)], 4)
    assert (stored.start[0] >= 0).tolist() == [True, False, False, False]
    found = cut(stored, BOXES[:1, :4], torch.arange(4)[None], 7)
    assert found[0, 0].eq(1).all()
    assert found[0, 1:].eq(0).all()


def test_no_objects_at_all_and_boxes_without_area_give_zeros(masks):
    empty = collate_masks([truth_of([])], [(30, 40)], 1)
    assert cut(empty, torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64), 4).eq(0).all()
    stored = collate_masks([truth_of([masks[1]])], [(30, 40)], 1)
    flat = torch.tensor([[[10.0, 10, 10, 20], [10, 10, 20, 10], [0, 0, 0, 0]]])
    assert cut(stored, flat, torch.zeros(1, 3, dtype=torch.int64), 4).isfinite().all()


def test_a_mask_costs_its_outline_not_its_area():
    """500 objects in an image of a million pixels: kilobytes each, not megabytes."""
    mask = np.zeros((1000, 1000), bool)
    mask[100:160, 200:260] = True
    stored = collate_masks([truth_of([mask] * 500)], [(1000, 1000)], 512)
    size = sum(t.numel() * t.element_size() for t in (stored.ends, stored.area, stored.on, stored.start))
    assert size < 500 * 5000
    box = torch.tensor([[[200.0, 100, 260, 160], [170, 100, 230, 160]]])
    found = cut(stored, box, torch.tensor([[0, 499]]), 28)
    assert found[0, 0].eq(1).all(), "also where pixels are counted beyond two to the power of 28"
    assert found[0, 1].sum(1).tolist() == pytest.approx([14] * 28)


def test_the_cut_compiles_without_a_graph_break(masks):
    stored = collate_masks([truth_of(masks)], [(30, 40)], 4)
    arguments = stored, BOXES[1:], torch.tensor([[0, 1, 2, 3, 0]]), 5
    compiled = torch.compile(cut, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*arguments), cut(*arguments))


def test_targets_of_whole_images_are_the_masks_themselves(masks):
    for mask in masks:
        stored = collate_masks([truth_of([mask[:30, :30]])], [(30, 30)], 1)
        found = cut(stored, torch.tensor([[[0.0, 0, 30, 30]]]), torch.zeros(1, 1, dtype=torch.int64), 30)
        assert (found[0, 0].numpy() == rle.decode(run_lengths(mask[:30, :30]))).all()


@pytest.mark.parametrize("scale", [1.0, 2.5, 0.6])
def test_aligned_targets_are_those_of_torchvision(masks, scale):
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    height, width = round(30 * scale), round(40 * scale)
    frame = Frame((30, 40)).resized((30, 40), (height, width))
    drawn = torch.tensor(np.stack(masks)).float()
    resized = torch.nn.functional.interpolate(drawn[:, None], (height, width))[:, 0].byte()
    boxes = (BOXES[0] * scale).clamp(min=0).minimum(torch.tensor([width, height] * 2))
    matched = torch.tensor([0, 1, 2, 3, 1])
    ours = cut_aligned(collate_masks([truth_of(masks, frame)], [(height, width)], 4), boxes[None], matched[None], 7)[0]
    wanted = project_masks_on_boxes(resized, boxes, matched, 7)
    assert torch.allclose(ours, wanted, atol=1e-5)


def test_aligned_targets_of_a_mirrored_image_are_the_mirrored_targets(masks):
    plain = collate_masks([truth_of(masks, Frame((30, 40)))], [(30, 40)], 4)
    mirrored = collate_masks([truth_of(masks, Frame((30, 40), (-1.0, 1.0), (40.0, 0.0)))], [(30, 40)], 4)
    matched = torch.tensor([[0, 1]])
    boxes = torch.tensor([[[4.0, 3, 32, 24], [10.0, 2, 38, 30]]])
    flipped = torch.stack((40 - boxes[..., 2], boxes[..., 1], 40 - boxes[..., 0], boxes[..., 3]), -1)
    # Without the half-pixel shift, pixel k is read at k: mirrored, at 39 - k, so boxes move by one.
    goals = cut_aligned(plain, boxes, matched, 7)
    again = cut_aligned(mirrored, flipped - torch.tensor([1.0, 0, 1, 0]), matched, 7)
    assert torch.allclose(again.flip(-1), goals, atol=1e-5)
