"""Pasted masks against a loop over single pixels, the numba form against plain torch, and the target pasted back."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn import kernels, rle, targets
from rcnn.data import open_dataset
from rcnn.data.collate import collate_masks, collate_truths
from rcnn.data.segments import segment_runs
from rcnn.kernels import forms, reference

SHARED = Path(__file__).parents[3] / "shared" / "data"
SIZE = (37, 53)


def slow_paste(mask, box, size):
    """The value of every pixel, from the four cells around its centre, in float64."""
    height, width = size
    cells = len(mask)
    x1, y1, x2, y2 = box
    values = np.zeros(size)
    if not (x2 > x1 and y2 > y1):
        return values
    for y in range(height):
        for x in range(width):
            u, v = (x + 0.5 - x1) / (x2 - x1) * cells - 0.5, (y + 0.5 - y1) / (y2 - y1) * cells - 0.5
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < cells and 0 <= j < cells:
                        values[y, x] += (1 - abs(v - i)) * (1 - abs(u - j)) * mask[i, j]
    return values


BOXES = np.array(
    [
        [5, 6, 40, 30],
        [5.3, 6.8, 21.1, 9.2],
        [-20, -13, 12, 20],  # out of the image on two sides
        [30, 20, 90, 70],
        [-30, -30, 100, 90],  # all around it
        [0, 0, 53, 37],
        [10, 10, 11, 11],  # one pixel
        [10.2, 10.2, 10.4, 10.3],
        [10, 10, 10, 20],  # nothing
        [20, 20, 10, 10],
        [-50, -50, -20, -20],  # wholly outside
        [53, 37, 80, 60],
        [4, -10, 20, 60],  # columns that run on from one into the next
        [0, 0, 53, 20],
        [0, 17, 53, 37],
    ],
    np.float32,
)


def drawn(runs, size=SIZE):
    return rle.decode({"size": list(size), "counts": runs})


@pytest.fixture(params=["fast", "plain"])
def form(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(sys.modules["rcnn.kernels.paste"], "array_form", lambda: reference)
    elif not hasattr(forms.form("cpu"), "paste"):
        pytest.skip("numba is missing")


@pytest.mark.parametrize("cells", [1, 5, 28])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_pasted_pixels_are_those_of_a_loop(form, cells, threshold):
    rng = np.random.default_rng(cells)
    boxes = np.concatenate((BOXES, rng.uniform(-20, 60, (12, 4)).astype(np.float32)))
    masks = rng.random((len(boxes), cells, cells), np.float32)
    masks[::3] = 1.0
    for runs, mask, box in zip(kernels.paste(masks, boxes, SIZE, threshold=threshold), masks, boxes, strict=True):
        values = slow_paste(mask.astype(np.float64), box.astype(np.float64), SIZE)
        clear = np.abs(values - threshold) > 1e-4
        assert (drawn(runs) == (values >= threshold))[clear].all()
        assert runs.sum() == SIZE[0] * SIZE[1]
        assert (runs[1:] > 0).all()


def test_both_forms_give_the_same_runs():
    rng = np.random.default_rng(1)
    masks = rng.random((len(BOXES), 14, 14), np.float32)
    fast, plain = kernels.paste(masks, BOXES, SIZE), reference.paste(masks, BOXES, SIZE, 0.5)
    assert [runs.tolist() for runs in fast] == [runs.tolist() for runs in plain]
    assert kernels.paste(masks[:0], BOXES[:0], SIZE) == []


def test_a_full_mask_fills_its_box_and_nothing_else(form):
    (runs,) = kernels.paste(np.ones((1, 28, 28), np.float32), np.array([[7, 3, 30, 22]]), SIZE)
    expected = np.zeros(SIZE, bool)
    expected[3:22, 7:30] = True
    assert (drawn(runs) == expected).all()


@pytest.mark.parametrize(("soft", "least"), [(False, 0.96), (True, 0.985)])
def test_the_target_pasted_back_is_the_mask(soft, least):
    """740 masks of photographs: what 28 × 28 cells lose."""
    path = SHARED / "coco128_train" / "annotations" / "instances_from_panoptic.json"
    if not path.is_file():
        pytest.skip("../shared/data/coco128_train is not here")
    data = open_dataset(path)
    overlaps = []
    for i in range(len(data)):
        truth, size = data.truth(i), data.size(i)
        objects = collate_truths([truth])
        stored = collate_masks([truth], [size], objects.labels.shape[1])
        cut = targets.cut(stored, objects.boxes, torch.arange(objects.boxes.shape[1])[None], 28)[0]
        cells = (cut if soft else (cut >= 0.5).float()).numpy()[: len(truth)]
        for g, runs in enumerate(kernels.paste(cells, truth.boxes, size)):
            if not truth.ignore[g]:
                true = rle.decode({"size": list(size), "counts": segment_runs(truth.segments[g], size)})
                back = drawn(runs, size)
                overlaps.append((true & back).sum() / (true | back).sum())
    assert len(overlaps) == 740
    assert np.mean(overlaps) >= least


def test_torchvisions_rule_pastes_as_torchvision_does():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    random = np.random.default_rng(0)
    masks = random.random((len(BOXES), 28, 28)).astype(np.float32)
    whole = (BOXES[:, 2:] > BOXES[:, :2]).all(1)
    masks, boxes = masks[whole], BOXES[whole]
    inside = (boxes[:, :2] < SIZE[::-1]).all(1) & (boxes[:, 2:] > 0).all(1)
    masks, boxes = masks[inside], boxes[inside]
    wanted = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), SIZE)[:, 0].numpy()
    pasted = kernels.paste(masks, boxes, SIZE, rule="torchvision")
    for runs, values in zip(pasted, wanted, strict=True):
        clear = abs(values - 0.5) > 1e-4  # float error decides the rest
        assert (drawn(runs.tolist())[clear] == (values >= 0.5)[clear]).all()
