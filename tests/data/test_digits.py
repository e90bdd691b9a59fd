"""The embedded data: pinned bytes, honest boxes and masks, disjoint splits, a cache that is never believed blindly."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.data import digits
from rcnn.data.digits import CLASSES, DIGESTS, SPLITS, DigitsSplit, generate
from rcnn.data.handwriting import FULL, SIDE, Shape, bounds, field, ink
from rcnn.data.paper import HEIGHT, WIDTH, sheet
from rcnn.data.seeds import Draws, counter_seed, counter_words, permutation
from rcnn.errors import UserError

# Of the pixels alone, on purpose apart from `DIGESTS`: changed data must be changed in two places, knowingly.
PIXELS = {
    "train": "ff9d2a3e8f5216e77c240db79d4cce4ed4eac36444db79916e56b634071b135d",
    "val": "96662f96ac515a609f1d9f6fcbfb41077e7305e84b3488fc35513e1353dd871c",
    "test": "b253d9b0b09ad71d649c398f8c3dfeb21c47b88fbfd1ba87b2166b64d1a68fcc",
}


@pytest.fixture(scope="module")
def splits(cache) -> dict[str, DigitsSplit]:
    """All splits, drawn by the first who asked in this session."""
    return {split: generate(split) for split in SPLITS}


@pytest.fixture
def kept(splits, tmp_path, monkeypatch):
    """The cache file of the `val` split, in a folder of one's own."""
    (file,) = Path(os.environ["RCNN_CACHE"]).glob("digits-val-*")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    return Path(shutil.copy(file, tmp_path))


@pytest.mark.parametrize("split", SPLITS)
def test_the_bytes_are_the_published_ones(splits, split):
    assert hashlib.sha256(splits[split].images.tobytes()).hexdigest() == PIXELS[split]


def test_there_are_400_100_and_100_images_of_320_by_240(splits):
    assert {split: data.images.shape for split, data in splits.items()} == {
        "train": (400, 240, 320, 3),
        "val": (100, 240, 320, 3),
        "test": (100, 240, 320, 3),
    }
    assert all(data.images.dtype == np.uint8 and data.instances.dtype == np.uint8 for data in splits.values())


def test_images_hold_0_to_12_digits_and_every_count_occurs(splits):
    assert {len(labels) for labels in splits["train"].labels} == set(range(13))
    for data in splits.values():
        assert max(map(len, data.labels)) <= 12
        assert 0.03 < np.mean([len(labels) == 0 for labels in data.labels]) < 0.2


def test_longer_sides_reach_from_20_to_100_pixels_and_most_can_be_read_at_a_glance(splits):
    boxes = np.concatenate([box for data in splits.values() for box in data.boxes])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert longer.min() >= 20
    assert longer.max() <= 100
    assert longer.min() < 23
    assert longer.max() > 95
    # The mean of a log-uniform and a uniform draw: the middle lies between their middles, 45 and 60.
    assert 45 < np.median(longer) < 60
    assert np.percentile(longer, 10) < 36


def test_aspect_ratios_vary_so_widely_that_one_anchor_shape_cannot_serve(splits):
    boxes = np.concatenate(splits["train"].boxes)
    ratio = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    low, high = np.percentile(ratio, (5, 95))
    assert low < 1 / 2
    assert high > 1.1


@pytest.mark.parametrize("split", ["val", "test"])
def test_boxes_are_tight_around_the_visible_pixels(splits, split):
    data = splits[split]
    for instances, boxes in zip(data.instances, data.boxes, strict=True):
        assert set(np.unique(instances)) - {0} == set(range(1, len(boxes) + 1))
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            ys, xs = np.nonzero(instances == k + 1)
            assert (x1, y1, x2, y2) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_semantic_labels_are_the_classes_of_the_visible_digits(splits):
    data = splits["val"]
    for i in range(0, len(data), 7):
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for k, label in enumerate(data.labels[i]):
            expected[data.instances[i] == k + 1] = label + 1
        assert np.array_equal(data.semantic[i], expected)


def test_no_handwriting_is_shared_between_splits_and_labels_are_its_classes(splits):
    from sklearn.datasets import load_digits

    target = load_digits().target
    used = {split: set(np.concatenate(data.sources).tolist()) for split, data in splits.items()}
    assert not (used["train"] & used["val"] | used["train"] & used["test"] | used["val"] & used["test"])
    assert len(used["train"]) > 900
    for data in splits.values():
        assert np.array_equal(target[np.concatenate(data.sources)], np.concatenate(data.labels))
        assert set(np.concatenate(data.labels).tolist()) == set(range(len(CLASSES)))


def test_some_digits_overlap_and_ink_stands_out_from_its_paper(splits):
    data = splits["train"]
    overlapping, contrasts = 0, []
    for image, instances, boxes in zip(data.images, data.instances, data.boxes, strict=True):
        for k, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
            window = instances[y1:y2, x1:x2]
            overlapping += bool(np.any((window > 0) & (window != k + 1)))
            grey = image[y1:y2, x1:x2].mean(-1)
            if np.any(window == 0):
                contrasts.append(abs(grey[window == k + 1].mean() - grey[window == 0].mean()))
    assert 0.05 < overlapping / len(np.concatenate(data.labels)) < 0.4
    assert np.percentile(contrasts, 5) > 15


def test_a_digit_that_would_cover_too_much_of_another_is_refused():
    instances = np.zeros((HEIGHT, WIDTH), np.uint8)
    instances[10:50, 10:40] = 1
    solid = np.ones((40, 30), bool)
    assert digits._overlaps_fairly(instances, (slice(10, 50), slice(30, 60)), solid)
    assert not digits._overlaps_fairly(instances, (slice(10, 50), slice(20, 50)), solid)
    assert not digits._overlaps_fairly(instances, (slice(100, 140), slice(20, 50)), solid)


def test_the_cache_gives_the_same_arrays(splits, kept, monkeypatch):
    monkeypatch.setattr(digits, "_written", lambda split: pytest.fail("the cache was not read"))
    again = generate("val")
    assert np.array_equal(again.images, splits["val"].images)
    assert np.array_equal(again.instances, splits["val"].instances)
    for name in ("boxes", "labels", "sources"):
        for a, b in zip(getattr(again, name), getattr(splits["val"], name), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize("harm", ["flipped", "truncated", "empty", "stale"])
def test_a_damaged_or_stale_cache_is_drawn_again(splits, kept, harm):
    whole = kept.read_bytes()
    if harm == "flipped":
        kept.write_bytes(whole[:100_000] + bytes([whole[100_000] ^ 1]) + whole[100_001:])
    elif harm == "truncated":
        kept.write_bytes(whole[: len(whole) // 2])
    elif harm == "empty":
        kept.write_bytes(b"")
    else:
        with np.load(kept) as file:
            arrays = dict(file)
        arrays["boxes"] = arrays["boxes"] + 1
        np.savez(kept, **arrays)
    assert np.array_equal(np.concatenate(generate("val").boxes), np.concatenate(splits["val"].boxes))
    with np.load(kept) as file:
        assert np.array_equal(file["images"], splits["val"].images)


def test_a_cache_that_cannot_be_written_is_no_error(splits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "file"))
    assert np.array_equal(generate("val").images, splits["val"].images)


def test_bytes_that_differ_from_the_published_ones_are_told_and_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.setitem(DIGESTS, "val", "0" * 64)
    with pytest.warns(UserWarning, match="differ from the published ones"):
        generate("val")
    assert not list(tmp_path.iterdir())


def test_a_split_travels_to_a_worker_by_name(splits, kept):
    travelling = pickle.dumps(splits["val"])
    assert len(travelling) < 200
    assert np.array_equal(pickle.loads(travelling).images, splits["val"].images)


def test_an_unknown_split_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="digits has no split 'vall'; did you mean 'val'"):
        generate("vall")


def test_a_sheet_is_a_function_of_its_seed_and_stays_in_range():
    first, again, other = (sheet(Draws(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in range(60):
        paper = sheet(Draws(seed))
        assert paper.shape == (3, HEIGHT, WIDTH)
        assert paper.min() >= 0
        assert paper.max() <= 255


def test_the_field_is_solid_inside_and_empty_outside_and_mirrors_with_its_source():
    source = np.zeros((8, 8), np.uint8)
    source[2:6, 1:7] = 16
    smooth = field(source)
    assert smooth.shape == (SIDE, SIDE)
    assert abs(smooth[SIDE // 2, SIDE // 2] - FULL) < 0.05 * FULL
    assert np.all(smooth[:16] == 0)
    assert np.array_equal(field(source[:, ::-1]), smooth[:, ::-1])


def test_the_field_equals_the_cubic_interpolation_written_out():
    def spline(d: float) -> float:
        d = abs(d)
        return (4 - 6 * d * d + 3 * d**3) / 6 if d < 1 else max(2 - d, 0) ** 3 / 6

    def catmull(d: float) -> float:
        d = abs(d)
        if d < 1:
            return 1.5 * d**3 - 2.5 * d * d + 1
        return -0.5 * d**3 + 2.5 * d * d - 4 * d + 2 if d < 2 else 0.0

    cells = np.random.default_rng(0).integers(0, 17, (8, 8))
    wide = np.pad(cells, 3)
    sharp = np.zeros((12, 12))
    for y, x in np.ndindex(12, 12):
        sharp[y, x] = 2 * wide[y + 1, x + 1] - wide[y : y + 3, x : x + 3].mean()
    positions = (np.arange(SIDE) + 0.5) / 16 - 0.5
    weights = np.array([[(spline(p - c) + catmull(p - c)) / 2 for c in range(12)] for p in positions])
    assert np.abs(field(cells) - weights @ sharp @ weights.T * FULL / 16).max() < 1.001


@settings(max_examples=60, deadline=None)
@given(
    longest=st.integers(20, 97),
    stretch=st.integers(9, 36),
    slant=st.integers(-4, 8),
    turn=st.integers(-10, 10),
    threshold=st.integers(1200, 2200),
    source=st.integers(0, 1796),
)
def test_ink_is_as_long_as_asked_for(longest, stretch, slant, turn, threshold, source):
    from sklearn.datasets import load_digits

    shape = Shape(longest, Fraction(stretch, 16), Fraction(slant, 16), Fraction(turn, 64), threshold)
    coverage = ink(field(load_digits().images[source].astype(np.uint8)), shape)
    y1, x1, y2, x2 = bounds(coverage >= 128)
    assert -2 <= max(y2 - y1, x2 - x1) - longest <= 6
    assert coverage.min() >= 0
    assert coverage.max() <= 255


def test_a_positive_turn_and_slant_lean_the_way_the_words_say():
    bar = np.zeros((8, 8), np.uint8)
    bar[:, 3:5] = 16

    def lean(slant: Fraction, turn: Fraction) -> float:
        coverage = ink(field(bar), Shape(80, Fraction(1), slant, turn, 2000)) >= 128
        top, bottom = np.flatnonzero(coverage[5]).mean(), np.flatnonzero(coverage[-6]).mean()
        return top - bottom

    assert abs(lean(Fraction(0), Fraction(0))) <= 1
    assert lean(Fraction(1, 4), Fraction(0)) == pytest.approx(20, abs=5)  # to the right going up
    assert lean(Fraction(0), Fraction(1, 8)) == pytest.approx(20, abs=5)  # tan(2·atan(1/8)) is 0.254: clockwise


def test_counter_words_are_splitmix64():
    # The first words of splitmix64 from state 0, as published with its reference code.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert counter_words(0, 3).tolist() == expected
    draws = Draws(0)
    assert [draws.word() for _ in range(3)] == expected


def test_counter_seeds_tell_counters_and_their_order_apart():
    seeds = {counter_seed(*counters) for counters in [(), (0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (-1,), (2**63,)]}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_reach_both_ends_and_permutations_hold_everything():
    draws = Draws(3)
    assert {draws.integer(-2, 3) for _ in range(300)} == set(range(-2, 4))
    small = [draws.reciprocal(10, 40) for _ in range(4000)]
    assert min(small) == 10
    assert max(small) == 40
    assert np.mean(np.array(small) < 20) == pytest.approx(0.5, abs=0.04)  # log-uniform: 20 is the middle of 10 and 40
    assert sorted(permutation(9, 100).tolist()) == list(range(100))
    assert not np.array_equal(permutation(9, 100), permutation(10, 100))
    assert draws.bytes(3, 5).shape == (3, 5)
