from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from rcnn.data.pictures import Mark, class_colour, draw_boxes, draw_marks, picture_grid

GREY = np.full((120, 160, 3), 90, np.uint8)
CLASSES = [f"class{i}" for i in range(100)]


def pixels(picture, colour):
    """Where a picture has exactly this colour: [H, W] bool."""
    return (np.asarray(picture) == colour).all(2)


def test_the_outline_lies_on_the_pixels_of_the_box_right_and_bottom_exclusive():
    at = pixels(draw_marks(GREY, [Mark((30, 40, 90, 100), "", (255, 0, 0))]), (255, 0, 0))
    rows, columns = np.flatnonzero(at.any(1)), np.flatnonzero(at.any(0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (30, 40, 90, 100)


def test_the_image_itself_is_not_changed():
    image = GREY.copy()
    draw_boxes(image, np.array([[0, 0, 50, 50]]), np.array([0]), np.array([0.5]), CLASSES)
    assert (image == 90).all()
    whole = Image.fromarray(image)
    draw_boxes(whole, np.array([[0, 0, 50, 50]]), np.array([0]), None, CLASSES)
    assert (np.asarray(whole) == 90).all()


def test_a_class_has_one_colour_and_neighbours_differ():
    colours = [class_colour(i) for i in range(100)]
    assert colours == [class_colour(i) for i in range(100)]
    for a, b in pairwise(colours):
        assert np.abs(np.subtract(a, b)).max() > 40
    assert len(set(colours)) == 100


@pytest.mark.parametrize("label", range(24))
def test_label_ink_stands_out_from_its_ground(label):
    picture = draw_boxes(GREY, np.array([[20, 60, 140, 110]]), np.array([label]), np.array([0.87]), CLASSES)
    chip = np.asarray(picture)[45:60, 20:100].reshape(-1, 3).astype(float)
    ground = np.dot(class_colour(label), (0.299, 0.587, 0.114))
    ink = np.dot(chip, (0.299, 0.587, 0.114))
    assert np.abs(ink - ground).max() > 90


def test_labels_of_boxes_at_one_place_do_not_cover_each_other():
    boxes = np.array([[20.0, 50, 120, 100], [22.0, 52, 118, 98]])
    picture = draw_boxes(GREY, boxes, np.array([0, 1]), None, CLASSES)
    one = draw_boxes(GREY, boxes[1:], np.array([1]), None, CLASSES)
    second = pixels(picture, class_colour(1)).sum()
    assert second > 0.8 * pixels(one, class_colour(1)).sum()


def test_boxes_outside_and_broken_ones_are_survived():
    boxes = np.array(
        [[-50.0, -50, 500, 500], [150, 110, 400, 400], [np.nan, 0, 1, 1], [60, 60, 60, 60], [50, 50, 10, 9]]
    )
    picture = draw_boxes(GREY, boxes, np.arange(5), np.ones(5), CLASSES, truth=(boxes, np.arange(5)))
    assert picture.size == (160, 120)


def test_enlarging_scales_the_boxes_with_the_image():
    picture = draw_boxes(GREY, np.array([[30, 60, 90, 100]]), np.array([0]), None, [""], scale=3)
    at = pixels(picture, class_colour(0))
    assert picture.size == (480, 360)
    assert np.flatnonzero(at.any(0))[-1] + 1 == 270


def test_truth_is_dashed():
    box = np.array([[20, 20, 140, 100]])
    solid = draw_boxes(GREY, box, np.array([0]), None, [""])
    dashed = draw_boxes(GREY, box[:0], np.zeros(0, int), None, [""], truth=(box, np.array([0])))
    share = pixels(dashed, class_colour(0)).sum() / pixels(solid, class_colour(0)).sum()
    assert 0.3 < share < 0.7


def test_a_grid_holds_every_picture_whole():
    pictures = [Image.new("RGB", size, (200, 0, 0)) for size in ((40, 20), (20, 40), (10, 10))]
    sheet = picture_grid(pictures, columns=2, cell=(50, 50), gap=4)
    assert sheet.size == (2 * 54 + 4, 2 * 54 + 4)
    red = pixels(sheet, (200, 0, 0)).sum()
    assert red == 50 * 25 + 25 * 50 + 50 * 50


def test_in_a_crowd_labels_leave_most_of_the_picture_to_be_seen():
    random = np.random.default_rng(0)
    corner = random.uniform((0, 0), (600, 440), (150, 2))
    boxes = np.concatenate((corner, corner + random.uniform(20, 60, (150, 2))), 1)
    image = np.full((480, 640, 3), 90, np.uint8)
    labels = random.integers(0, 3, 150)
    seen = pixels(draw_boxes(image, boxes, labels, random.random(150), CLASSES), (90, 90, 90)).mean()
    outlines = pixels(draw_marks(image, [Mark(box, "", (255, 0, 0)) for box in boxes]), (90, 90, 90)).mean()
    assert seen > 0.65 * outlines
    few = draw_boxes(image, boxes[:3], labels[:3], None, CLASSES)
    all_three = [pixels(few, class_colour(int(k))).any() for k in labels[:3]]
    assert all(all_three)
