from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from rcnn.evaluation.coco import IGNORED_AREA, NAMES, coco_figures, object_areas
from rcnn.evaluation.columns import flatten, flatten_masks


def oracle(columns, kind="bbox", segments=None, masks=None, sizes=None, area=None):
    """pycocotools on the same columns: the twelve figures, and AP per class."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    sides = columns.truth_boxes[:, 2:] - columns.truth_boxes[:, :2]
    area = sides.prod(1) if area is None else area
    rows = [
        {
            "id": i + 1,
            "image_id": int(columns.truth_image[i]) + 1,
            "category_id": int(columns.truth_labels[i]) + 1,
            "bbox": [*columns.truth_boxes[i, :2].tolist(), *sides[i].tolist()],
            "area": IGNORED_AREA if columns.difficult[i] and not columns.crowd[i] else float(area[i]),
            "iscrowd": int(columns.crowd[i]),
        }
        for i in range(len(sides))
    ]
    found = [
        {
            "image_id": int(columns.image[i]) + 1,
            "category_id": int(columns.labels[i]) + 1,
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": float(columns.scores[i]),
        }
        for i, box in enumerate(columns.boxes)
    ]
    if kind == "segm":
        for row, segment in zip(rows, segments, strict=True):
            row["segmentation"] = segment
        for row, mask in zip(found, masks, strict=True):
            row["segmentation"] = mask
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(sizes or [(0, 0)] * columns.images)
            ],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(columns.classes)],
            "annotations": rows,
        }
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(found), kind)
        judge.evaluate(), judge.accumulate(), judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    per_class = [p[p > -1].mean() if (p > -1).any() else np.nan for p in np.moveaxis(precision, 2, 0)]
    return judge.stats, np.array(per_class)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_twelve_figures_are_pycocotools_with_crowds_difficult_objects_and_ties(random_data, seed):
    columns = flatten(*random_data(seed=seed, images=60))
    assert columns.crowd.any()
    assert (columns.difficult & ~columns.crowd).any()
    ours = coco_figures(columns)
    stats, per_class = oracle(columns)
    assert 0.1 < stats[0] < 0.9
    np.testing.assert_allclose([ours.figures[n] for n in NAMES], stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.ap, per_class, rtol=0, atol=1e-12)


def test_golden_coco_boxes_to_the_printed_digit(golden, coco_files):
    folder, expected = golden("coco_eval_100")
    truths, predictions, classes, _ = coco_files(folder / "gt.json", folder / "dets.json")
    figures = coco_figures(flatten(truths, predictions, classes)).figures
    for name, value in expected["bbox"].items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name


def test_golden_coco_masks_and_boxes_to_the_printed_digit(golden, coco_files):
    folder, expected = golden("coco_segm_100")
    truths, predictions, classes, sizes = coco_files(folder / expected["gt"], folder / "dets.json")
    columns = flatten(truths, predictions, classes)
    segments = [s for t in truths for s in t.segments]
    masks = flatten_masks(predictions)
    boxes = coco_figures(columns, segments=segments).figures
    masked = coco_figures(columns, segments=segments, masks=masks, sizes=sizes).figures
    for name in NAMES:
        assert boxes[name] == pytest.approx(expected["bbox"][name], abs=1e-12), name
        assert masked[name] == pytest.approx(expected["segm"][name], abs=1e-12), name


def test_a_difficult_object_is_neither_hit_nor_miss(truth, prediction):
    easy, hard = [10, 10, 50, 50], [100, 100, 160, 160]
    truths = [truth([easy, hard], [0, 0], difficult=[False, True])]
    for found in ([easy, hard], [easy]):
        columns = flatten(truths, [prediction(found, [0.8, 0.9][: len(found)])], ["a"])
        assert coco_figures(columns).figures["AP"] == pytest.approx(1)
    plain = flatten([truth([easy, hard], [0, 0])], [prediction([easy], [0.8])], ["a"])
    assert coco_figures(plain).figures["AP"] < 0.6


def test_a_crowd_region_excuses_any_number_of_predictions(truth, prediction):
    truths = [truth([[0, 0, 40, 40], [50, 50, 300, 300]], [0, 0], crowd=[False, True])]
    inside = [[60, 60, 90, 90], [100, 100, 130, 130], [0, 0, 40, 40]]
    columns = flatten(truths, [prediction(inside, [0.9, 0.8, 0.7])], ["a"])
    assert coco_figures(columns).figures["AP"] == pytest.approx(1)


def test_areas_come_from_outlines_where_there_are_some(truth, prediction):
    square = [[0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]]
    triangles = [[0.0, 0.0, 10.0, 0.0, 0.0, 10.0], [20.0, 20.0, 30.0, 20.0, 20.0, 30.0]]
    uncompressed = {"size": [5, 4], "counts": [3, 7, 10]}
    columns = flatten([truth([[0, 0, 30, 30]] * 4, [0] * 4)], [prediction()], ["a"])
    assert object_areas(columns, [square, triangles, uncompressed, None]).tolist() == [100, 100, 7, 900]


def test_a_stated_area_goes_before_outline_and_box_as_in_pycocotools(random_data):
    """Masks that were not kept: an object's range of size is that of the area which its annotation states."""
    truths, predictions, classes = random_data(seed=3, images=40)
    rng = np.random.default_rng(0)
    for truth in truths:
        truth.areas = rng.choice([500.0, 5000.0, 50000.0, np.nan], len(truth))
    columns = flatten(truths, predictions, classes)
    plain = (columns.truth_boxes[:, 2:] - columns.truth_boxes[:, :2]).prod(1)
    stated = np.where(np.isnan(columns.truth_areas), plain, columns.truth_areas)
    outline = [[[0.0, 0.0, 10.0, 0.0, 10.0, 10.0]]] * len(plain)
    assert object_areas(columns, [None] * len(plain)).tolist() == stated.tolist()
    with_outlines = object_areas(columns, outline)
    assert with_outlines.tolist() == np.where(np.isnan(columns.truth_areas), 50, columns.truth_areas).tolist()
    stats, _ = oracle(columns, area=stated)
    found = coco_figures(columns).figures
    np.testing.assert_allclose([found[n] for n in NAMES], stats, rtol=0, atol=1e-12)
    for truth in truths:
        truth.areas = None
    assert coco_figures(flatten(truths, predictions, classes)).figures["APs"] != found["APs"]


def test_nothing_found_and_nothing_to_find_are_told_apart(truth, prediction):
    something = coco_figures(flatten([truth([[0, 0, 9, 9]], [0])], [prediction()], ["a", "b"]))
    assert something.figures["AP"] == 0
    assert np.isnan(something.ap).tolist() == [False, True]
    nothing = coco_figures(flatten([truth()], [prediction([[0, 0, 9, 9]], [0.5])], ["a", "b"]))
    assert np.isnan(nothing.figures["AP"])
