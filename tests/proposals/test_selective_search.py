import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.data import read_image
from rcnn.errors import UserError
from rcnn.evaluation.overlaps import iou
from rcnn.proposals import RegionOptions, SelectiveSearch, SelectiveSearchOptions, method_of
from rcnn.proposals.selective_search import MODES, hierarchies, rank

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden"


@pytest.fixture
def photo():
    """An image [90, 120, 3] of three discs on a gradient."""
    y, x = np.mgrid[:90, :120]
    image = np.stack((x * 2, y * 2, 200 - x), -1).astype(np.float64)
    for cy, cx, radius, colour in (
        (30, 30, 20, (250, 20, 20)),
        (60, 80, 22, (20, 220, 40)),
        (25, 95, 14, (10, 10, 10)),
    ):
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = colour
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


DISCS = np.array([[11, 11, 50, 50], [59, 39, 102, 82], [82, 12, 109, 39]], np.float64)


@pytest.mark.parametrize("mode", MODES)
def test_objects_are_among_the_regions(photo, mode):
    boxes = SelectiveSearch(SelectiveSearchOptions(mode=mode))(photo)
    assert boxes.dtype == np.float32
    assert iou(DISCS[:, None], boxes[None].astype(np.float64)).max(1).min() > 0.85


def test_modes_have_the_published_strategies():
    counted = {mode: len(s.spaces) * len(s.scales) * len(s.similarities) for mode, s in MODES.items()}
    assert counted == {"single": 1, "fast": 8, "quality": 80}


@pytest.mark.parametrize("min_side", [0, 20, 35])
def test_boxes_are_inside_large_enough_and_all_different(photo, min_side):
    boxes = SelectiveSearch(SelectiveSearchOptions(min_side=min_side))(photo)
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 120).all()
    assert (boxes[:, [1, 3]] <= 90).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= max(min_side, 1)
    assert len(np.unique(boxes, axis=0)) == len(boxes)


def test_a_seed_repeats_and_another_ranks_the_same_boxes_otherwise(photo):
    one, again, other = (SelectiveSearch(SelectiveSearchOptions(seed=seed, overlap=1))(photo) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.unique(one, axis=0), np.unique(other, axis=0))


def test_ranking_is_position_times_chance(photo):
    strategies = hierarchies(photo, MODES["fast"], 0.8)
    numbers = np.random.default_rng(5).random(sum(map(len, strategies)))
    best: dict[tuple, float] = {}
    start = 0
    for boxes in strategies:
        for i, box in enumerate(boxes.tolist()):
            score = numbers[start + i] * (len(boxes) - i)
            best[tuple(box)] = min(score, best.get(tuple(box), np.inf))
        start += len(boxes)
    wanted = sorted((box for box in best if min(box[2] - box[0], box[3] - box[1]) >= 20), key=lambda box: best[box])
    assert rank(strategies, 20, 5).tolist() == [list(box) for box in wanted]


def test_near_repeats_of_better_ranked_regions_are_dropped(photo):
    everything = SelectiveSearch(SelectiveSearchOptions(overlap=1))(photo)
    kept: list[np.ndarray] = []
    for box in everything.astype(np.float64):
        if not kept or iou(box[None], np.array(kept)).max() <= 0.9:
            kept.append(box)
    assert len(kept) < len(everything)
    np.testing.assert_array_equal(SelectiveSearch(SelectiveSearchOptions(overlap=0.9))(photo), np.array(kept))


def test_the_same_regions_on_any_number_of_threads(photo):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(SelectiveSearch()(photo))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_without_numba_the_same_regions_are_found_slowly(photo, monkeypatch):
    from rcnn import kernels
    from rcnn.kernels import reference

    small = np.ascontiguousarray(photo[20:70:2, 10:60:2])
    search = SelectiveSearch(SelectiveSearchOptions(mode="single", min_side=0))
    fast = search(small)
    for room in (kernels.colour, kernels.segmentation, kernels.grouping, kernels):
        monkeypatch.setattr(room, "array_form", lambda: reference)
    slow = search(small)
    # Colour conversion is equal to the last bits only, so that single boxes may differ.
    assert iou(fast[:, None].astype(float), slow[None].astype(float)).max(1).mean() > 0.95


def test_width_searches_a_resized_image_and_answers_in_the_original(photo):
    large = photo.repeat(4, 0).repeat(4, 1)
    boxes = SelectiveSearch(SelectiveSearchOptions(width=120))(large)
    assert (boxes[:, 2:].max(0) == (480, 360)).all()
    assert iou(4 * DISCS[:, None], boxes[None].astype(np.float64)).max(1).min() > 0.8


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (25, 1), (30, 30)])
def test_tiny_and_flat_images_are_searched(shape):
    boxes = SelectiveSearch(SelectiveSearchOptions(min_side=0))(np.full((*shape, 3), 99, np.uint8))
    assert boxes.tolist() == [[0, 0, shape[1], shape[0]]]


def test_count_cuts_the_list(photo):
    everything = SelectiveSearch()(photo)
    np.testing.assert_array_equal(SelectiveSearch(count=7)(photo), everything[:7])
    np.testing.assert_array_equal(method_of(RegionOptions(count=9))(photo), everything[:9])


def test_keys_tell_settings_apart_but_not_counts():
    options = [{}, {"mode": "quality"}, {"sigma": 1.0}, {"min_side": 0}, {"overlap": 1}, {"width": 500}, {"seed": 1}]
    keys = [SelectiveSearch(SelectiveSearchOptions(**changes)).key for changes in options]
    assert len(set(keys)) == len(keys)
    assert SelectiveSearch(count=5).key == SelectiveSearch().key
    assert method_of(RegionOptions()).key == SelectiveSearch().key
    assert SelectiveSearch(SelectiveSearchOptions(min_side=20)).key == SelectiveSearch().key


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "fsat"}, "did you mean 'fast'"),
        ({"sigma": -1.0}, "sigma = -1.0"),
        ({"width": 0}, "width = 0"),
        ({"seed": -3}, "seed = -3"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, words):
    with pytest.raises(UserError, match=words):
        SelectiveSearchOptions(**changes)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/data/golden is not here")
@pytest.mark.parametrize(("name", "published"), [("000004", 0.659), ("001551", 0.829)])
def test_objects_are_covered_as_by_the_published_boxes(name, published):
    truth = json.loads((GOLDEN / "demo_images/ground_truth_voc07.json").read_text())[name]
    objects = np.array([entry["bbox_1based"] for entry in truth if not entry["difficult"]], np.float64)
    objects[:, :2] -= 1
    theirs = np.load(GOLDEN / f"selective_search/{name}_boxes.npy").astype(np.float64)
    theirs[:, 2:] += 1
    assert iou(objects[:, None], theirs[None]).max(1).mean() == pytest.approx(published, abs=5e-4)
    ours = SelectiveSearch(count=len(theirs))(read_image(GOLDEN / f"selective_search/{name}.jpg")).astype(np.float64)
    assert iou(objects[:, None], ours[None]).max(1).mean() > published - 0.02
