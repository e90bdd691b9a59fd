"""Run lengths against loops and COCO's own library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rcnn import rle

masks = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda shape: arrays(np.bool_, shape))


@given(masks)
def test_runs_count_down_the_columns(mask):
    expected, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                expected.append(0)
                value = not value
            expected[-1] += 1
    assert rle.encode(mask).tolist() == expected


@given(masks)
def test_a_mask_comes_back_from_text_and_from_lists(mask):
    runs = rle.encode(mask)
    assert (rle.decode(rle.compressed(runs, mask.shape)) == mask).all()
    assert (rle.decode({"size": list(mask.shape), "counts": runs.tolist()}) == mask).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_text_is_that_of_pycocotools(runs):
    oracle = pytest.importorskip("pycocotools.mask")
    size = (sum(runs), 1)
    written = rle.compressed(np.array(runs), size)
    theirs = oracle.frPyObjects({"size": list(size), "counts": runs}, *size)
    assert written["counts"] == theirs["counts"].decode()
    assert rle.counts(written).tolist() == runs


@pytest.mark.parametrize("text", ["abc", "", "\n", "0o", "é1", "o" * 40 + "0"])
def test_text_that_is_no_mask_is_refused(text):
    with pytest.raises(ValueError, match="count"):
        rle.counts({"size": [3, 4], "counts": text})
    with pytest.raises(ValueError, match="12"):
        rle.counts({"size": [3, 4], "counts": [5, 6]})
