"""Label maps judged against loops over pixels, and against a published output with its known figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rcnn.data.semantic import VOID
from rcnn.errors import RCNNError, UserError
from rcnn.evaluation import confusion_of, evaluate, total_of

DEMO = Path(__file__).parents[3] / "shared" / "data" / "golden" / "fcn_demo"


def slow_figures(truth, found, classes):
    """The four figures of Long et al. 2015, section 5, class by class and pixel by pixel."""
    pairs = [(t, f) for t, f in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True) if t != VOID]
    accuracies, ious, weighted = [], [], 0.0
    for k in range(classes):
        there = sum(t == k for t, _ in pairs)
        right = sum(t == k == f for t, f in pairs)
        either = sum(k in pair for pair in pairs)
        if there:
            accuracies.append(right / there)
        if either:
            ious.append(right / either)
            weighted += there * right / either
    return {
        "mIoU": np.mean(ious),
        "pixel_accuracy": sum(t == f for t, f in pairs) / len(pairs),
        "mean_accuracy": np.mean(accuracies),
        "fw_IoU": weighted / len(pairs),
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 6), void=st.floats(0, 0.9))
def test_the_figures_are_those_of_a_loop_over_pixels(seed, classes, void):
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, classes + 1, (2, 9, 7)).astype(np.uint8)
    truth[rng.random(truth.shape) < void] = VOID
    truth[0, 0] = 0
    halves = [confusion_of(truth[rows], found[rows], classes + 1) for rows in (slice(4), slice(4, None))]
    result = total_of(halves, [f"class {k}" for k in range(classes)])
    for name, value in slow_figures(truth, found, classes + 1).items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12), name
    assert result.images == 2


def test_the_published_output_of_fcn_8s_has_its_known_figures():
    if not DEMO.is_dir():
        pytest.skip("../shared/data/golden/fcn_demo is not here")
    expected = json.loads((DEMO / "expected.json").read_text())
    truth, found = (np.asarray(Image.open(DEMO / name)) for name in ("label.png", "fcn8s_output_classes.png"))
    # Their background is 0 and ours the last, which changes no figure.
    matrix = confusion_of(truth, found, 21)
    result = total_of([matrix], [f"class {k}" for k in range(20)])
    assert result.pixel_accuracy == pytest.approx(expected["pixel_acc"], abs=1e-12)
    assert result.mean_accuracy == pytest.approx(expected["mean_acc_over_present"], abs=1e-12)
    assert result.mIoU == pytest.approx(expected["mean_iou_over_present"], abs=1e-12)
    assert result.fw_IoU == pytest.approx(expected["fw_iou"], abs=1e-12)
    for label, iou in expected["iou"].items():
        assert result.ious[int(label)] == pytest.approx(iou, abs=1e-12)
    assert f"{result.pixel_accuracy:.6f} {result.mIoU:.6f}" == "0.842514 0.719616"


def test_a_class_that_is_found_where_there_is_none_counts_as_zero():
    truth, found = np.full((4, 4), 2, np.uint8), np.full((4, 4), 2, np.uint8)
    found[0] = 0
    result = total_of([confusion_of(truth, found, 3)], ["a", "b"])
    assert result.mIoU == pytest.approx((0 + 0.75) / 2)
    assert result.mean_accuracy == pytest.approx(0.75)
    assert "left out of the mean: b" in "; ".join(result.rules)
    assert result.to_dict()["per_class"]["b"]["IoU"] is None
    json.dumps(result.to_dict(), allow_nan=False)


def test_nothing_to_judge_is_no_figure():
    void = np.full((3, 3), VOID, np.uint8)
    result = total_of([confusion_of(void, np.zeros((3, 3), np.uint8), 2)], ["a"])
    assert np.isnan([*result.figures().values()]).all()
    assert "–" in result.summary()


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(RCNNError, match=r"\[3, 3\] cannot be judged by truth of \[3, 4\]"):
        confusion_of(np.zeros((3, 4), np.uint8), np.zeros((3, 3), np.uint8), 2)
    with pytest.raises(RCNNError, match="beyond the 2 classes"):
        confusion_of(np.zeros((3, 3), np.uint8), np.full((3, 3), 2, np.uint8), 2)


def test_detections_are_not_judged_as_label_maps():
    with pytest.raises(UserError, match="judges label maps, which only an FCN makes"):
        evaluate([], [], ["a"], protocol="segmentation")
