from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from rcnn.errors import RCNNError, UserError
from rcnn.evaluation import check_classes, evaluate, flatten, meant
from rcnn.evaluation.voc import average_precisions


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc12"])
def test_the_dictionary_is_json_of_fractions_with_the_promised_keys(random_data, protocol):
    truths, predictions, classes = random_data()
    row = evaluate(truths, predictions, [*classes, "unseen"], protocol=protocol).to_dict()
    row = json.loads(json.dumps(row, allow_nan=False))
    assert row["protocol"] == protocol
    assert row["images"] == len(truths)
    assert 0 < row["AP75"] < row["AP50"] < 1
    assert list(row["per_class"]) == [*classes, "unseen"]
    assert row["per_class"]["unseen"]["AP"] is None
    assert {"AP", "AP50", "objects"} <= set(row["per_class"]["class0"])


@pytest.mark.parametrize(("protocol", "interpolation"), [("voc07", "11point"), ("voc12", "area")])
def test_voc_protocols_differ_by_their_interpolation(random_data, protocol, interpolation):
    data = random_data()
    ap = average_precisions(flatten(*data), interpolation=interpolation)
    result = evaluate(*data, protocol=protocol)
    assert result.mAP == result.AP50 == pytest.approx(ap.mean())


def test_the_summary_prints_the_protocol_and_names_what_is_left_out(random_data):
    truths, predictions, classes = random_data()
    for protocol, word in (("coco", "0.50:0.05:0.95"), ("voc07", "11 recall levels"), ("voc12", "area under")):
        text = evaluate(truths, predictions, [*classes, "unseen"], protocol=protocol).summary()
        assert word in text
        assert "left out of the mean: unseen" in text
        assert "IoU" in text
        assert "difficult" in text
        assert all(name in text for name in classes)


def test_predictions_that_are_not_finite_are_dropped_and_counted(truth, prediction):
    box = [0, 0, 20, 20]
    truths = [truth([box], [0])]
    found = prediction([[np.nan, 0, 1, 1], box, [0, 0, np.inf, 9], box], [0.9, 0.5, 0.9, np.nan])
    for protocol in ("coco", "voc07"):
        result = evaluate(truths, [found], ["a"], protocol=protocol)
        assert result.dropped == 3
        assert result.mAP == pytest.approx(1)
        assert "3 predictions" in result.summary()


def test_masks_are_evaluated_where_both_sides_have_them(golden, coco_files):
    folder, expected = golden("coco_segm_100")
    truths, predictions, classes, sizes = coco_files(folder / expected["gt"], folder / "dets.json")
    result = evaluate(truths, predictions, classes, sizes=np.array(sizes))
    assert result.mAP == pytest.approx(expected["bbox"]["AP"], abs=1e-12)
    assert result.to_dict()["mask"]["mAP"] == pytest.approx(expected["segm"]["AP"], abs=1e-12)
    predictions[3].masks = None
    assert evaluate(truths, predictions, classes, sizes=sizes).mask is None


def test_masks_of_dropped_predictions_are_dropped_with_them(golden, coco_files):
    folder, expected = golden("coco_segm_100")
    truths, predictions, classes, sizes = coco_files(folder / expected["gt"], folder / "dets.json")
    for p in predictions[::3]:
        p.boxes = np.concatenate((np.full((1, 4), np.nan), p.boxes))
        p.scores, p.labels = np.append(0.99, p.scores), np.append(0, p.labels)
        p.masks = [{"size": [9, 9], "counts": "broken"}, *p.masks]
    result = evaluate(truths, predictions, classes, sizes=sizes)
    assert result.mask["mAP"] == pytest.approx(expected["segm"]["AP"], abs=1e-12)


def test_data_without_objects_give_no_figure_rather_than_zero(truth, prediction):
    for protocol in ("coco", "voc12"):
        result = evaluate([truth()], [prediction()], ["a"], protocol=protocol)
        assert math.isnan(result.mAP)
        assert result.to_dict()["mAP"] is None
        assert "–" in result.summary()


def test_class_sets_that_differ_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'persn' is not in the data; did you mean 'person'\?"):
        check_classes(["cat", "persn"], ["cat", "person"])
    with pytest.raises(UserError, match=r"'dog' is not known to the model.*--classes"):
        check_classes(["cat"], ["cat", "dog"])
    assert check_classes(["cat", "dog", "ant"], ["ant", "cat", "dog"]).tolist() == [1, 2, 0]


def test_wrong_input_is_named(truth, prediction):
    with pytest.raises(UserError, match="did you mean 'voc07'"):
        evaluate([], [], ["a"], protocol="voc2007")
    with pytest.raises(RCNNError, match="1 images but ground truth for 2"):
        evaluate([truth(), truth()], [prediction()], ["a"])
    with pytest.raises(RCNNError, match="prediction has label 3; 1 classes"):
        evaluate([truth()], [prediction([[0, 0, 1, 1]], [1], [3])], ["a"])


def test_judging_stored_predictions_needs_no_torch():
    code = "import sys, rcnn.evaluation; print([m for m in ('torch', 'faster_coco_eval') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_outputs_that_stand_for_no_class_are_not_asked_of_the_data():
    assert meant(("cat", "N/A 12", "dog")) == ("cat", "dog")
    check_classes(meant(("cat", "N/A 12", "dog")), ("dog", "cat"))
