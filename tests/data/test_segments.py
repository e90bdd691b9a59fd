from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn import rle
from rcnn.data.segments import Frame, require_segment, run_lengths, segment_area, segment_runs


def test_run_lengths_count_down_the_columns():
    rng = np.random.default_rng(0)
    for density in (0, 0.1, 0.5, 1):
        mask = rng.random((7, 5)) < density
        written = run_lengths(mask)
        expected, value = [0], False
        for x in range(5):
            for y in range(7):
                if mask[y, x] != value:
                    expected.append(0)
                    value = not value
                expected[-1] += 1
        assert written == {"size": [7, 5], "counts": expected}
        assert segment_area(written) == mask.sum()
        assert not mask.any() or require_segment(written, (7, 5)) == written


def test_areas_are_those_of_pycocotools():
    oracle = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((40, 30), np.uint8, order="F")
    mask[5:25, 3:20] = 1
    rle = oracle.encode(mask)
    assert segment_area({"size": [40, 30], "counts": rle["counts"].decode()}) == 20 * 17
    assert segment_area([[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 24, 20, 20, 24]]) == 108


@pytest.mark.parametrize(
    "value",
    [
        "text",
        7,
        [1, 2, 3],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 10**400]],
        {"counts": "abc"},
        {"counts": [1, -1], "size": [10, 20]},
        {"counts": [100], "size": [20, 10]},
        {"counts": [100], "size": [10, 20]},
        {"counts": "abc", "size": [10, 20]},
        {"counts": "é", "size": [10, 20]},
    ],
)
def test_what_is_no_mask_is_refused(value):
    with pytest.raises(ValueError, match="segmentation"):
        require_segment(value, (10, 20))


def test_an_rle_without_a_pixel_is_refused():
    for counts in ([200], [0, 0, 200], "X6"):
        with pytest.raises(ValueError, match="empty"):
            require_segment({"counts": counts, "size": [10, 20]}, (10, 20))


def test_polygons_are_drawn_by_cocos_rule():
    oracle = pytest.importorskip("pycocotools.mask")
    polygons = [[3.5, 2.0, 17.2, 4.4, 9.0, 18.0], [20, 3, 26, 3, 26, 9.5]]
    expected = oracle.decode(oracle.merge(oracle.frPyObjects(polygons, 20, 30)))
    drawn = rle.decode({"size": [20, 30], "counts": segment_runs(polygons, (20, 30))})
    assert drawn.any()
    assert (drawn == expected).all()


@given(st.tuples(*[st.floats(0, 60)] * 2), st.lists(st.sampled_from(["crop", "pad", "resize", "flip", "turn"])))
def test_a_frame_leads_every_point_back(point, steps):
    """Each step moves a point and the frame; the frame brings it back to where it was annotated."""
    (x, y), (height, width), frame = point, (40.0, 60.0), Frame((40, 60))
    for step in steps:
        if step == "crop":
            x, y, height, width, frame = (
                x - 7,
                y - 3,
                height - 9,
                width - 11,
                frame.cropped(7, 3, width - 11, height - 9),
            )
        elif step == "pad":
            x, y, height, width, frame = x + 5, y + 9, height + 12, width + 10, frame.moved(-5, -9)
        elif step == "resize":
            frame = frame.resized((height, width), (height * 1.5, width * 0.75))
            x, y, height, width = x * 0.75, y * 1.5, height * 1.5, width * 0.75
        elif step == "flip":
            x, frame = width - x, frame.mirrored(width=width)
        else:
            y, frame = height - y, frame.mirrored(height=height)
    left, top, right, bottom = frame.visible
    assert min(left, top) >= 0
    assert right <= 60
    assert bottom <= 40
    back = frame.scale[0] * x + frame.shift[0], frame.scale[1] * y + frame.shift[1]
    assert back == pytest.approx(point, abs=1e-6)


def test_nothing_is_no_mask():
    assert require_segment(None) is None
    assert require_segment([]) is None
