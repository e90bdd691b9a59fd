from __future__ import annotations

import numpy as np
import pytest

from rcnn.data.segments import require_segment, run_lengths, segment_area


def test_run_lengths_count_down_the_columns():
    rng = np.random.default_rng(0)
    for density in (0, 0.1, 0.5, 1):
        mask = rng.random((7, 5)) < density
        rle = run_lengths(mask)
        expected, value = [0], False
        for x in range(5):
            for y in range(7):
                if mask[y, x] != value:
                    expected.append(0)
                    value = not value
                expected[-1] += 1
        assert rle == {"size": [7, 5], "counts": expected}
        assert segment_area(rle) == mask.sum()
        assert require_segment(rle, (7, 5)) == rle


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
    ],
)
def test_what_is_no_mask_is_refused(value):
    with pytest.raises(ValueError, match="segmentation"):
        require_segment(value, (10, 20))


def test_nothing_is_no_mask():
    assert require_segment(None) is None
    assert require_segment([]) is None
