from __future__ import annotations

import numpy as np
import pytest

from rcnn.evaluation import find_curves, flatten, judge, rank_images
from rcnn.evaluation.voc import average_precisions

DOG, CAT = 0, 1
A, B, C = [10, 10, 60, 60], [100, 100, 160, 160], [200, 10, 260, 70]


def test_each_kind_of_error_is_named(truth, prediction):
    found = prediction(
        [A, [12, 10, 62, 60], B, [40, 10, 90, 60], [300, 300, 340, 340], [210, 20, 260, 70]],
        [0.9, 0.8, 0.7, 0.6, 0.55, 0.3],
        [DOG, DOG, DOG, DOG, CAT, CAT],
    )
    outcome = judge(truth([A, B, C], [DOG, CAT, CAT]), found)
    assert outcome.kinds == ("correct", "duplicate", "wrong class", "poorly placed", "nothing there")
    assert outcome.objects.tolist() == [0, 0, 1, 0, -1]
    assert outcome.missed.tolist() == [2]
    assert (outcome.correct, outcome.wrong) == (1, 5)
    assert outcome.quality == pytest.approx(2 / 7)


def test_ignored_objects_are_no_ones_fault(truth, prediction):
    there = truth([A, B], [DOG, DOG], difficult=[True, False], crowd=[False, True])
    outcome = judge(there, prediction([A, [110, 110, 120, 120]], [0.9, 0.8], [DOG, DOG]))
    assert outcome.kinds == ("ignored", "ignored")
    assert not len(outcome.missed)


def test_the_right_class_has_the_first_claim_to_an_object(truth, prediction):
    outcome = judge(truth([A], [DOG]), prediction([A, A], [0.9, 0.6], [CAT, DOG]))
    assert outcome.kinds == ("wrong class", "correct")
    assert outcome.objects.tolist() == [-1, 0]


def test_rows_of_the_confusion_matrix_add_up_to_the_objects_and_columns_to_the_predictions(random_data):
    truths, predictions, classes = random_data(seed=2, images=80)
    curves = find_curves(truths, predictions, classes)
    columns = flatten(truths, predictions, classes)
    np.testing.assert_array_equal(curves.confusion[:-1].sum(1), columns.objects)
    shown = columns.labels[columns.scores >= 0.5]
    excused = sum(judge(t, p).kinds.count("ignored") for t, p in zip(truths, predictions, strict=True))
    assert excused > 0
    assert curves.confusion[:, :-1].sum() == len(shown) - excused
    assert curves.errors["missed"] == curves.confusion[:-1, -1].sum()
    assert curves.confusion[:-1, :-1].trace() == curves.confusion[:-1, :-1].max(0).sum()


def test_the_area_below_each_curve_is_its_average_precision(random_data):
    truths, predictions, classes = random_data(seed=6)
    curves = find_curves(truths, predictions, classes)
    expected = average_precisions(flatten(truths, predictions, classes))
    np.testing.assert_allclose([c.ap for c in curves.per_class.values()], expected)
    assert curves.mean.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert (np.diff(curves.mean) <= 1e-12).all()


def test_the_best_score_has_the_highest_f1(truth, prediction):
    boxes = [A, B, [300, 300, 350, 350], [400, 300, 450, 350], C]
    data = [truth([A, B, C], [0, 0, 0])], [prediction(boxes, [0.9, 0.8, 0.7, 0.6, 0.5])], ["a"]
    score, f1 = find_curves(*data).best_score
    assert (score, f1) == (0.8, pytest.approx(0.8))


def test_images_are_ranked_by_what_went_wrong_in_them(truth, prediction):
    truths = [truth([A, B], [0, 0]), truth([A], [0]), truth(), truth([A, B], [0, 0]), truth([A, B, C], [0, 0, 0])]
    found = [prediction(b, [0.9] * len(b)) for b in ([], [], [], [A, B], [A])]
    assert rank_images(truths, found).tolist() == [3, 2, 4, 1, 0]


def test_empty_data_have_empty_curves(truth, prediction):
    curves = find_curves([truth()], [prediction()], ["a"])
    assert not curves.per_class
    assert curves.best_score == (0, 0)
    assert curves.confusion.sum() == curves.mean.sum() == 0
