from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.evaluation.columns import flatten
from rcnn.evaluation.voc import average_precision, average_precisions, match, precision_recall


def devkit(truths, predictions, label, threshold, eleven, strict=False, plus_one=False):
    """The development kit's procedure, one detection and one object at a time."""
    found = [
        (float(s), i, [float(v) for v in b])
        for i, p in enumerate(predictions)
        for b, s, k in zip(p.boxes, p.scores, p.labels, strict=True)
        if k == label
    ]
    found.sort(key=lambda row: -row[0])  # stable
    taken = [np.zeros(len(t.labels), bool) for t in truths]
    objects = sum(1 for t in truths for k, d in zip(t.labels, t.difficult, strict=True) if k == label and not d)
    extra = 1.0 if plus_one else 0.0
    tp, fp = [], []
    for _, image, (x1, y1, x2, y2) in found:
        t, best, at = truths[image], -np.inf, None
        for g, (a1, b1, a2, b2) in enumerate(np.asarray(t.boxes, np.float64)):
            if t.labels[g] != label:
                continue
            w, h = min(x2, a2) - max(x1, a1) + extra, min(y2, b2) - max(y1, b1) + extra
            shared = w * h if w > 0 and h > 0 else 0.0
            union = (x2 - x1 + extra) * (y2 - y1 + extra) + (a2 - a1 + extra) * (b2 - b1 + extra) - shared
            if shared / union > best:
                best, at = shared / union, g
        hit = best > threshold if strict else best >= threshold
        if hit and t.difficult[at]:
            tp.append(0), fp.append(0)
        elif hit and not taken[image][at]:
            taken[image][at] = True
            tp.append(1), fp.append(0)
        else:
            tp.append(0), fp.append(1)
    if not objects:
        return np.nan
    tp, fp = np.cumsum(tp, dtype=float), np.cumsum(fp, dtype=float)
    recall, precision = tp / objects, tp / np.maximum(tp + fp, 1e-12)
    if eleven:
        total = 0.0
        for t in np.arange(0, 1.1, 0.1):
            total += max((p for p, r in zip(precision, recall, strict=True) if r >= t), default=0.0) / 11
        return total
    r, p = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    return sum((r[i] - r[i - 1]) * p[i] for i in range(1, len(r)))


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("interpolation", ["11point", "area"])
def test_average_precision_is_the_devkits(random_data, plus_one, strict, threshold, interpolation):
    truths, predictions, classes = random_data(seed=3, crowds=False)
    columns = flatten(truths, predictions, classes)
    ours = average_precisions(
        columns, threshold=threshold, interpolation=interpolation, strict=strict, legacy_plus_one=plus_one
    )
    slow = [
        devkit(truths, predictions, k, threshold, interpolation == "11point", strict, plus_one)
        for k in range(len(classes))
    ]
    assert 0.05 < np.mean(slow) < 0.95
    np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-12)


def test_crowded_images_are_compared_in_parts_with_the_same_result(random_data, monkeypatch):
    truths, predictions, classes = random_data(seed=5)
    columns = flatten(truths, predictions, classes)
    whole = match(columns)
    monkeypatch.setattr("rcnn.evaluation.voc.PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(match(columns), whole)


def test_one_object_counts_once_and_the_surest_detection_takes_it(truth, prediction):
    box = [10, 10, 50, 50]
    columns = flatten([truth([box], [0])], [prediction([box, box], [0.4, 0.9])], ["a"])
    assert match(columns).tolist() == [0, 1]


def test_of_equal_scores_the_first_takes_the_object(truth, prediction):
    box = [10, 10, 50, 50]
    columns = flatten([truth([box], [0])], [prediction([box] * 3, [0.5] * 3)], ["a"])
    assert match(columns).tolist() == [1, 0, 0]


def test_difficult_objects_neither_count_nor_punish(truth, prediction):
    easy, hard = [10, 10, 50, 50], [100, 100, 160, 160]
    truths = [truth([easy, hard], [0, 0], difficult=[False, True])]
    columns = flatten(truths, [prediction([hard, hard, easy], [0.9, 0.8, 0.7])], ["a"])
    assert match(columns).tolist() == [-1, -1, 1]
    assert average_precisions(columns)[0] == 1.0
    missed = flatten(truths, [prediction([easy], [0.7])], ["a"])
    assert average_precisions(missed)[0] == 1.0


def test_predictions_in_a_crowd_region_are_ignored_unless_they_hit(truth, prediction):
    one, crowd = [10, 10, 50, 50], [0, 0, 300, 300]
    truths = [truth([one, crowd], [0, 0], crowd=[False, True])]
    found = prediction([one, [100, 100, 140, 140], [290, 290, 390, 390]], [0.5, 0.9, 0.8])
    assert match(flatten(truths, [found], ["a"])).tolist() == [1, -1, 0]


def test_an_overlap_equal_to_the_threshold_hits_unless_strict(truth, prediction):
    columns = flatten([truth([[0, 0, 10, 10]], [0])], [prediction([[0, 0, 10, 5]], [1.0])], ["a"])
    assert match(columns, threshold=0.5).tolist() == [1]
    assert match(columns, threshold=0.5, strict=True).tolist() == [0]


def test_without_objects_there_is_no_average_precision(truth, prediction):
    columns = flatten([truth()], [prediction([[0, 0, 9, 9]], [0.9])], ["a", "b"])
    assert np.isnan(average_precisions(columns)).all()
    assert np.isnan(average_precisions(flatten([], [], ["a"]))).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40), st.integers(1, 50))
def test_average_precision_lies_between_0_and_the_recall_reached(rows, more):
    outcome = np.array([hit for hit, _ in rows], np.int8)
    objects = int(outcome.sum()) + more
    precision, recall, scores = precision_recall(outcome, np.array([s for _, s in rows], float), objects)
    area = average_precision(precision, recall, "area")
    assert 0 <= area <= outcome.sum() / objects + 1e-12
    assert (np.diff(scores) <= 0).all()
    assert (np.diff(recall) >= 0).all()


def voc07(folder, classes):
    """Truths and detections of the golden files, 1-based inclusive as they stand."""
    rows = [line.split() for line in (folder / "voc07_test.txt").read_text().splitlines()]
    flags = [line.split()[1:] for line in (folder / "voc07_test_difficult.txt").read_text().splitlines()]
    names = {row[0].removesuffix(".jpg"): i for i, row in enumerate(rows)}
    found = [([], [], []) for _ in rows]
    for label, name in enumerate(classes):
        for line in (folder / "detections" / f"comp4_det_test_{name}.txt").read_text().splitlines():
            image, score, *box = line.split()
            boxes, scores, labels = found[names[image]]
            boxes.append([float(v) for v in box])
            scores.append(float(score))
            labels.append(label)
    return [np.array(row[1:], int).reshape(-1, 5) for row in rows], [[f == "1" for f in row] for row in flags], found


def test_voc2007_figures_are_py_faster_rcnns_to_the_last_digit(golden, truth, prediction):
    folder, expected = golden("voc07_eval")
    classes = sorted(expected["per_class_all"])
    rows, flags, found = voc07(folder, classes)
    truths = [truth(r[:, :4], r[:, 4], difficult=f) for r, f in zip(rows, flags, strict=True)]
    columns = flatten(truths, [prediction(*f) for f in found], classes)
    assert columns.objects.sum() == expected["non_difficult"]
    for name, figures in expected["expected"].items():
        interpolation, threshold = name.split("@")
        ap = average_precisions(
            columns,
            threshold=float(threshold),
            interpolation=interpolation,
            strict=True,
            legacy_plus_one=True,
        )
        for label, value in zip(classes, ap, strict=True):
            assert value == pytest.approx(figures["AP"][label], abs=1e-13), (name, label)
        assert ap.mean() == pytest.approx(figures["mAP"], abs=1e-13)


def test_padillas_seven_images_to_the_printed_digit(golden, truth, prediction):
    folder, expected = golden("voc_ap_7images")
    truths, predictions = [], []
    for path in sorted((folder / "groundtruths").glob("*.txt")):
        rows = np.array([line.split()[1:] for line in path.read_text().splitlines()], float)
        found = [line.split()[1:] for line in (folder / "detections" / path.name).read_text().splitlines()]
        found = np.array(found, float).reshape(-1, 5)
        rows[:, 2:] += rows[:, :2]
        found[:, 3:] += found[:, 1:3]
        truths.append(truth(rows, np.zeros(len(rows))))
        predictions.append(prediction(found[:, 1:], found[:, 0]))
    columns = flatten(truths, predictions, ["object"])
    for key, interpolation in (("11_point", "11point"), ("every_point", "area")):
        for threshold, value in expected[key].items():
            ours = average_precisions(
                columns, threshold=float(threshold), interpolation=interpolation, legacy_plus_one=True
            )
            assert ours[0] == pytest.approx(value, abs=1e-10), (key, threshold)  # cut, not rounded


def test_cartuchos_85_images_to_the_printed_digit(golden, truth, prediction):
    folder, expected = golden("voc_ap_cartucho85")
    classes = sorted(expected["AP"])
    truths, predictions = [], []
    for path in sorted((folder / "ground-truth").glob("*.txt")):
        rows = [line.split() for line in path.read_text().splitlines()]
        found = [line.split() for line in (folder / "detection-results" / path.name).read_text().splitlines()]
        found = [row for row in found if row[0] in classes]
        truths.append(
            truth([r[1:5] for r in rows], [classes.index(r[0]) for r in rows], ["difficult" in r for r in rows])
        )
        predictions.append(
            prediction([r[2:6] for r in found], [r[1] for r in found], [classes.index(r[0]) for r in found])
        )
    ap = average_precisions(flatten(truths, predictions, classes), legacy_plus_one=True)
    assert round(100 * ap.mean(), 2) == expected["mAP_percent"]
    for name, value in zip(classes, ap, strict=True):
        assert round(value, 4) == pytest.approx(expected["AP"][name], abs=1e-9), name
