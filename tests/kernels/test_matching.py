"""Matching against the whole table of overlaps, and torchvision's matcher."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from rcnn.kernels import match, reference
from rcnn.kernels.forms import form


def slow(boxes, truth, real, eligible):
    """The definition, one pair at a time over the whole table."""
    overlap = torch.zeros(len(truth), boxes.shape[1])
    index, best = overlap.long(), overlap.bool()
    for b in range(len(truth)):
        table = torchvision.ops.box_iou(boxes[b % len(boxes)], truth[b]).nan_to_num(0)  # [A, G]
        table[:, ~real[b]] = 0
        table[~eligible[b]] = 0
        for a, row in enumerate(table.tolist()):
            if row and max(row) > 0:
                overlap[b, a], index[b, a] = max(row), row.index(max(row))
            best[b, a] = any(v > 0 and v == table[:, g].max() for g, v in enumerate(row))
    return overlap, index, best


def scene(boxes: int, truths: int, images: int = 2, seed: int = 0):
    """Boxes and truths on a coarse grid, so that many overlaps tie."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        corner = torch.randint(0, 20, (*shape, 2), generator=generator).float()
        return torch.cat((corner, corner + torch.randint(0, 12, (*shape, 2), generator=generator)), -1)

    real = torch.rand(images, truths, generator=generator) > 0.3
    return some(images, boxes), some(images, truths), real, torch.rand(images, boxes, generator=generator) > 0.3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("boxes", "truths"), [(1, 1), (700, 9), (1500, 3), (40, 0), (0, 4)])
def test_every_form_equals_the_definition(kernels_form, plain, boxes, truths, shared):
    box, truth, real, eligible = scene(boxes, truths)
    box = box[:1] if shared else box
    for allowed in (eligible, None):
        expected = slow(box, truth, real, torch.ones_like(eligible) if allowed is None else allowed)
        for run in (kernels_form, plain):
            for found, wanted in zip(run.match(box, truth, real, allowed), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


def test_every_truth_that_any_box_touches_has_a_best_box():
    box, truth, real, _ = scene(600, 6)
    _, _, best = match(box, truth, real)
    for b in range(2):
        table = torchvision.ops.box_iou(box[b], truth[b]).nan_to_num(0)
        for g in range(6):
            top = table[:, g].max()
            if real[b, g] and top > 0:
                assert best[b, table[:, g] == top].all()


def test_it_gives_what_torchvisions_matcher_assigns():
    box, truth, _, _ = scene(3000, 12, images=1)
    # The matcher also restores boxes that tie at overlap 0, ours asks for some: every truth gets an area.
    truth[..., 2:] += 1
    overlap, index, best = match(box, truth, torch.ones(1, 12, dtype=torch.bool))
    table = torchvision.ops.box_iou(truth[0], box[0]).nan_to_num(0)
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(table)
    assigned = torch.where(best | (overlap >= 0.7), index, torch.where(overlap < 0.3, -1, -2))[0]
    assert torch.equal(assigned, theirs)


def test_memory_stays_below_one_chunk_of_pairs(plain, monkeypatch):
    from rcnn.kernels.reference import matching

    box, truth, real, eligible = scene(200, 40)
    whole = plain.match(box, truth, real, eligible)
    monkeypatch.setattr(matching, "PAIRS", 2 * 200 * 3)  # three truths at a time
    for a, b in zip(matching.match(box, truth, real, eligible), whole, strict=True):
        assert torch.equal(a, b)


whole = st.integers(0, 9)
quads = st.lists(st.tuples(whole, whole, whole, whole), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(quads, quads, st.data())
def test_whatever_the_boxes_the_forms_agree(boxes, truths, data):
    real = torch.tensor([data.draw(st.lists(st.booleans(), min_size=len(truths), max_size=len(truths)))])
    box, truth = torch.tensor([boxes]).float(), torch.tensor([truths]).float()
    for a, b in zip(form("cpu").match(box, truth, real, None), reference.match(box, truth, real, None), strict=True):
        assert torch.equal(a, b)


def test_it_is_an_operator_that_compiles_whole():
    arguments = scene(50, 4)
    torch.library.opcheck(torch.ops.rcnn.match.default, arguments)
    torch.library.opcheck(torch.ops.rcnn.match.default, (arguments[0][:1], *arguments[1:3], None))
    compiled = torch.compile(lambda *a: match(*a)[0] * 2, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*arguments), match(*arguments)[0] * 2)
