"""Resizing by one rule, and augmentation that carries every object along: followed here by its colour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.data.collate import collate_masks
from rcnn.data.dataset import Truth
from rcnn.data.segments import run_lengths
from rcnn.data.transforms import Augmentation, resize, resize_regions, resize_truth, resized_size
from rcnn.errors import UserError
from rcnn.targets import cut

EVERYTHING = Augmentation(flip=0.5, vertical_flip=0.5, photometric=0.5, iou_crop=0.7, zoom_out=0.5)
MOVING = Augmentation(flip=0.5, vertical_flip=0.5, iou_crop=0.7, zoom_out=0.5, visible=0.0)


def truth_of(boxes, labels=None, difficult=None, crowd=None) -> Truth:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Truth(
        boxes=boxes,
        labels=np.arange(count) if labels is None else np.asarray(labels, np.int64),
        difficult=np.zeros(count, bool) if difficult is None else np.asarray(difficult, bool),
        crowd=np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        segments=[None] * count,
    )


def painted(height: int, width: int, boxes) -> np.ndarray:
    """A black image [H, W, 3] with each of up to three whole-number boxes filled in a channel of its own."""
    image = np.zeros((height, width, 3), np.uint8)
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, k] = 255
    return image


def test_the_shorter_side_is_fixed_unless_the_longer_one_gets_too_long():
    assert resized_size(375, 500, 480, 640) == (480, 640)
    assert resized_size(500, 375, 600, 1000) == (800, 600)
    assert resized_size(100, 500, 480, 640) == (128, 640)
    assert resized_size(240, 320, 240, 320) == (240, 320)
    assert resized_size(1, 1000, 600, 1000) == (1, 1000)
    assert resized_size(1, 4000, 600, 1000) == (1, 1000)  # no side vanishes


@given(*[st.integers(1, 5000)] * 2, *[st.integers(16, 2000)] * 2)
def test_resized_size_is_the_scale_rounded(height, width, short, long):
    scale = min(short / min(height, width), long / max(height, width))
    for side, exact in zip(resized_size(height, width, short, long), (height * scale, width * scale), strict=True):
        assert abs(side - exact) <= 0.5 + 1e-6 or (side == 1 and exact < 0.5)
        assert side <= long


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (17, 91)])
def test_resize_is_antialiased_bilinear_to_the_nearest_level(size):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    before = image.copy()
    result = resize(image, min(size), max(size))
    h, w = resized_size(48, 64, min(size), max(size))
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), (h, w), mode="bilinear", antialias=True
    )[0]
    assert result.dtype == torch.uint8
    assert result.shape == (3, h, w)
    assert (result.double() - exact).abs().max() <= 1.01
    assert np.array_equal(image, before)


def test_resize_gives_the_same_for_arrays_tensors_and_both_memory_layouts():
    image = np.random.default_rng(1).integers(0, 256, (50, 40, 3), np.uint8)
    rows = torch.from_numpy(image).permute(2, 0, 1)
    assert torch.equal(resize(image, 64, 100), resize(rows, 64, 100))
    assert torch.equal(resize(image, 64, 100), resize(rows.contiguous(), 64, 100))
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(resize(image, 64, 100), resize(frozen, 64, 100))


def test_resize_to_the_same_size_shares_no_memory():
    image = np.zeros((40, 50, 3), np.uint8)
    resize(image, 40, 50).fill_(9)
    assert image.max() == 0


def test_resize_truth_scales_boxes_and_keeps_flags():
    truth = truth_of([[10, 20, 30, 60], [0, 0, 50, 100]], labels=[3, 1], difficult=[1, 0])
    scaled = resize_truth(truth, (100, 50), (50, 100))
    assert scaled.boxes.tolist() == [[20, 10, 60, 30], [0, 0, 100, 50]]
    assert scaled.labels.tolist() == [3, 1]
    assert scaled.ignore.tolist() == [True, False]
    assert truth.boxes.tolist() == [[10, 20, 30, 60], [0, 0, 50, 100]]


def test_a_flip_mirrors_pixels_and_boxes_exactly():
    image = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    truth = truth_of([[1, 2, 11, 22], [30, 0, 40, 30]], labels=[5, 6])
    for option, axis, boxes in (
        ("flip", 1, [[29, 2, 39, 22], [0, 0, 10, 30]]),
        ("vertical_flip", 0, [[1, 8, 11, 28], [30, 0, 40, 30]]),
    ):
        augmentation = Augmentation(**{"flip": 0.0, option: 1.0})
        pixels, left = augmentation.apply(image, truth, short=30, long=40, seed=0)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.flip(image, axis))
        assert left.boxes.tolist() == boxes
        assert left.labels.tolist() == [5, 6]


def test_no_augmentation_is_a_resize():
    image = np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8)
    truth = truth_of([[1, 2, 11, 22]])
    pixels, left = Augmentation.none().apply(image, truth, short=60, long=80, seed=0)
    assert torch.equal(pixels, resize(image, 60, 80))
    assert left.boxes.tolist() == resize_truth(truth, (30, 40), (60, 80)).boxes.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_their_objects_through_crop_zoom_resize_and_flips(seed):
    boxes = [(10, 12, 60, 50), (80, 5, 140, 100), (30, 70, 70, 110)]
    truth = truth_of(boxes, labels=[7, 8, 9], difficult=[0, 1, 0], crowd=[0, 0, 1])
    pixels, left = MOVING.apply(painted(120, 160, boxes), truth, short=120, long=240, seed=seed)
    shown = (pixels > 127) & (pixels > 60).logical_not().sum(0).bool()  # the surround is grey, in all channels
    for box, label, difficult, crowd in zip(left.boxes, left.labels, left.difficult, left.crowd, strict=True):
        k = int(label) - 7
        assert (difficult, crowd) == (k == 1, k == 2)
        ys, xs = np.nonzero(shown[k].numpy())
        if min(box[2] - box[0], box[3] - box[1]) >= 2:
            assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() <= 1
    for k in set(range(3)) - set((left.labels - 7).tolist()):
        ys, xs = np.nonzero(shown[k].numpy())
        assert min(np.ptp(ys), np.ptp(xs)) <= 1 if len(ys) else True  # only what is thinner than a pixel is dropped


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), height=st.integers(8, 90), width=st.integers(8, 90))
def test_augmented_boxes_are_finite_inside_and_of_positive_size(data, seed, height, width):
    corner = st.tuples(st.floats(0, width - 1, width=32), st.floats(0, height - 1, width=32))
    boxes = [
        (x, y, min(x + data.draw(st.floats(0.5, 90)), width), min(y + data.draw(st.floats(0.5, 90)), height))
        for x, y in data.draw(st.lists(corner, max_size=5))
    ]
    truth = truth_of(boxes)
    image = np.full((height, width, 3), 100, np.uint8)
    pixels, left = EVERYTHING.apply(image, truth, short=64, long=96, seed=seed)
    assert pixels.dtype == torch.uint8
    assert max(pixels.shape[1:]) <= 96
    assert left.boxes.dtype == np.float32
    assert len(left.boxes) == len(left.labels) == len(left.difficult) == len(left.crowd) == len(left.segments)
    assert set(left.labels.tolist()) <= set(range(len(boxes)))
    assert np.isfinite(left.boxes).all()
    assert (left.boxes >= 0).all()
    assert (left.boxes <= [*pixels.shape[:0:-1]] * 2).all()
    assert (left.boxes[:, 2:] - left.boxes[:, :2] >= 1 - 1e-4).all()


@pytest.mark.parametrize("seed", range(8))
def test_images_without_objects_survive_everything(seed):
    augmentation = Augmentation(flip=1.0, vertical_flip=1.0, photometric=0.5, iou_crop=1.0, zoom_out=1.0)
    pixels, left = augmentation.apply(np.full((40, 60, 3), 7, np.uint8), truth_of([]), short=40, long=60, seed=seed)
    assert pixels.shape == (3, 40, 60)
    assert left.boxes.shape == (0, 4)
    assert left.labels.shape == (0,)


def test_the_result_depends_on_the_seed_alone_and_leaves_the_global_generator():
    image = np.random.default_rng(4).integers(0, 256, (60, 80, 3), np.uint8)
    truth = truth_of([[5, 5, 40, 40]])
    torch.manual_seed(1)
    expected = torch.rand(3)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(1)
        results.append(EVERYTHING.apply(image, truth, short=60, long=80, seed=seed))
        assert torch.equal(torch.rand(3), expected)
        torch.rand(7)
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].boxes.tolist() == results[1][1].boxes.tolist()
    assert results[0][0].shape != results[2][0].shape or not torch.equal(results[0][0], results[2][0])


def test_the_source_image_and_truth_are_left_as_they_are():
    image = np.random.default_rng(5).integers(0, 256, (60, 80, 3), np.uint8)
    truth = truth_of([[5, 5, 40, 40]])
    before, boxes = image.copy(), truth.boxes.copy()
    for seed in range(10):
        pixels, left = EVERYTHING.apply(image, truth, short=60, long=80, seed=seed)
        pixels.fill_(0)
        left.boxes[:] = 0
    pixels, left = Augmentation.none().apply(image, truth, short=60, long=80, seed=0)
    pixels.fill_(0)
    left.boxes[:] = 0
    assert np.array_equal(image, before)
    assert np.array_equal(truth.boxes, boxes)


def test_an_object_cut_to_a_small_share_is_ignored_and_one_cut_less_is_kept():
    boxes = [(0, 0, 40, 40), (50, 50, 100, 100)]
    image, truth = painted(100, 100, boxes), truth_of(boxes)
    cropping = Augmentation(flip=0.0, iou_crop=1.0, visible=0.4)
    seen = {True: 0, False: 0}
    for seed in range(80):
        _, left = cropping.apply(image, truth, short=100, long=400, seed=seed)
        x, y, width, height = _window(seed, truth)
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            wide, high = min(x2, x + width) - max(x1, x), min(y2, y + height) - max(y1, y)
            share = max(wide, 0) * max(high, 0) / ((x2 - x1) * (y2 - y1))
            assert (k in left.labels) == (share > 0)
            if share > 0:
                assert left.ignore[left.labels == k].item() == (share < 0.4)
                seen[share < 0.4] += 1
    assert min(seen.values()) > 5


def _window(seed: int, truth: Truth):
    """(x, y, width, height) of the crop that this seed draws, drawn once more; the image where none is cut."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.rand(())
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(truth.boxes), format="XYXY", canvas_size=(100, 100))
        drawn = v2.RandomIoUCrop().make_params([tv_tensors.Image(torch.zeros(3, 100, 100)), boxes])
    return (drawn["left"], drawn["top"], drawn["width"], drawn["height"]) if drawn else (0, 0, 100, 100)


def test_photometric_changes_move_no_box_and_change_pixels():
    image = np.random.default_rng(6).integers(0, 256, (40, 60, 3), np.uint8)
    truth = truth_of([[5, 5, 30, 30]])
    pixels, left = Augmentation(flip=0.0, photometric=0.5).apply(image, truth, short=40, long=60, seed=1)
    assert left.boxes.tolist() == truth.boxes.tolist()
    assert not torch.equal(pixels, resize(image, 40, 60))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"flip": 1.5}, "augment.flip = 1.5: expected a number from 0 to 1"),
        ({"photometric": -0.1}, "augment.photometric = -0.1: expected a number from 0 to 1"),
        ({"iou_crop": math.nan}, "augment.iou_crop = nan: expected a number from 0 to 1"),
        ({"scale": (1.2, 0.8)}, "augment.scale"),
        ({"scale": (0.0, 1.0)}, "augment.scale"),
        ({"zoom_out_side": 0.5}, "augment.zoom_out_side = 0.5: expected 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence.replace("(", "\\(")):
        Augmentation(**options)


def test_presets_differ_as_their_names_say():
    assert Augmentation.classic() == Augmentation()
    assert Augmentation.none() == Augmentation(flip=0.0)
    assert Augmentation.modern().photometric > 0
    assert Augmentation.modern().scale != (1.0, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_regions_go_wherever_objects_at_the_same_place_go(seed):
    boxes = np.array([[4, 6, 30, 28], [20, 10, 60, 44], [50, 2, 62, 12]], np.float32)
    image = painted(48, 64, boxes.astype(int))
    image, truth, regions = MOVING.apply_with_regions(image, truth_of(boxes), boxes, short=40, long=80, seed=seed)
    assert np.array_equal(regions, truth.boxes)
    assert regions.dtype == np.float32


@given(st.integers(0, 10**6), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_regions_change_neither_the_image_nor_its_objects(seed, count):
    rng = np.random.default_rng(seed)
    boxes = np.array([[4, 6, 30, 28], [20, 10, 60, 44]], np.float32)
    image = painted(48, 64, boxes.astype(int))
    corners = rng.uniform(-20, 80, (count, 2, 2))
    regions = np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32).reshape(-1, 4)
    alone, truth = EVERYTHING.apply(image, truth_of(boxes), short=40, long=80, seed=seed)
    pixels, same, left = EVERYTHING.apply_with_regions(image, truth_of(boxes), regions, short=40, long=80, seed=seed)
    assert torch.equal(pixels, alone)
    assert np.array_equal(same.boxes, truth.boxes)
    assert np.array_equal(same.ignore, truth.ignore)
    assert len(left) <= count
    height, width = pixels.shape[1:]
    assert (left >= 0).all()
    assert (left <= [width, height, width, height]).all()
    assert ((left[:, 2:] - left[:, :2]) >= 1).all()


def test_resized_regions_are_cut_at_the_edges_and_dropped_where_nothing_is_left():
    regions = np.array([[-10, 5, 20, 30], [70, 0, 90, 10], [0, 0, 64, 48], [3, 3, 3.2, 40]], np.float32)
    resized = resize_regions(regions, (48, 64), (96, 128))
    assert resized.tolist() == [[0, 10, 40, 60], [0, 0, 128, 96]]


@pytest.mark.parametrize("sides", [(0,), (480, -1)])
def test_shorter_sides_are_lengths(sides):
    with pytest.raises(UserError, match=r"augment\.shorter_sides"):
        Augmentation(shorter_sides=sides)


def odd_shape() -> np.ndarray:
    """A mask [120, 160] that no mirroring leaves as it is."""
    mask = np.zeros((120, 160), bool)
    mask[20:100, 40:60] = mask[80:100, 60:120] = mask[20:35, 60:90] = True
    return mask


def cut_from(truth: Truth, size: tuple[int, int], box: list[float]) -> torch.Tensor:
    """The first object's mask over a box, 28 × 28."""
    stored = collate_masks([truth], [size], 4)
    return cut(stored, torch.tensor([[box]]), torch.zeros(1, 1, dtype=torch.int64), 28)[0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(60, 80), (120, 160), (150, 300)]))
def test_masks_follow_what_they_show_through_every_augmentation(seed, sides):
    """A white shape on black: what is cut from the moved mask is what the moved pixels show."""
    mask = odd_shape()
    image = np.repeat(mask[..., None] * np.uint8(255), 3, 2)
    truth = truth_of([[40, 20, 120, 100], [0, 0, 160, 120]])
    truth.segments = [run_lengths(mask), None]
    moved, left = MOVING.apply(image, truth, short=sides[0], long=sides[1], seed=seed)
    if len(left) == 0 or left.segments[0] is None:
        return  # cropped away
    height, width = moved.shape[-2:]
    found = cut_from(left, (height, width), [0.0, 0, width, height])
    # What surrounds a zoomed-out image is grey; the shape is what is white.
    white = torch.nn.functional.interpolate((moved[None] > 190).float(), (28, 28), mode="area")[0, 0]
    assert (found - white).abs().mean() < 0.04


def test_resizing_a_truth_carries_its_masks():
    mask = odd_shape()
    truth = truth_of([[40, 20, 120, 100]])
    truth.segments = [run_lengths(mask)]
    small = resize_truth(truth, (120, 160), (60, 40))
    assert small.segments == truth.segments
    box = small.boxes[0].tolist()
    assert box == [10, 10, 30, 50]
    assert torch.allclose(cut_from(small, (60, 40), box), cut_from(truth, (120, 160), [40.0, 20, 120, 100]))


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (600, 800), (97, 61), (1, 5)])
def test_torchvisions_rule_is_that_of_its_detectors_transform(size):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3).eval()
    wanted, _ = theirs.resize(torch.from_numpy(image).permute(2, 0, 1).float())
    resized = resize(image, 80, 133, "torchvision")
    assert resized.dtype == torch.float32
    assert tuple(resized.shape[1:]) == resized_size(*size, 80, 133, "torchvision") == tuple(wanted.shape[1:])
    assert torch.allclose(resized, wanted, atol=1e-3)


def test_torchvisions_rule_cuts_what_float_error_leaves_below_a_whole_pixel():
    scales = [(h, w, min(80 / min(h, w), 133 / max(h, w))) for h in range(20, 200) for w in range(20, 200)]
    wanted = [(int(h * scale), int(w * scale)) for h, w, scale in scales]
    assert [resized_size(h, w, 80, 133, "torchvision") for h, w, _ in scales] == wanted
    assert any(resized_size(h, w, 80, 133) != size for (h, w, _), size in zip(scales, wanted, strict=True))


def test_training_images_are_whole_values_whatever_the_rule():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    none = np.zeros(1, bool)
    truth = Truth(np.array([[5, 5, 30, 30]], np.float32), np.zeros(1, np.int64), none, none, [None])
    made, _ = Augmentation.none().apply(image, truth, short=40, long=80, seed=0, rule="torchvision")
    assert made.dtype == torch.uint8
    assert torch.equal(made, resize(image, 40, 80, "torchvision").round().to(torch.uint8))
