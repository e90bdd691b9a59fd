"""Results written and read again are the same, and are judged as the model's own would be."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import rcnn
from rcnn import cli
from rcnn.data import open_dataset
from rcnn.detectors import Detections
from rcnn.errors import UserError
from rcnn.evaluation import evaluate
from rcnn.interop import results

CLASSES = ("cat", "dog")


@pytest.fixture
def coco(tmp_path):
    """A COCO folder of two images whose ids are neither their places nor their names."""
    from PIL import Image

    (tmp_path / "data" / "annotations").mkdir(parents=True)
    images = [{"id": 70, "file_name": "a.jpg", "width": 60, "height": 40}]
    images.append({"id": 30, "file_name": "000000000139.jpg", "width": 60, "height": 40})
    for image in images:
        Image.new("RGB", (60, 40)).save(tmp_path / "data" / image["file_name"])
    objects = [
        {"id": 1, "image_id": 70, "category_id": 5, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 30, "category_id": 9, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0},
    ]
    categories = [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "data" / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return tmp_path / "data"


def found(image, boxes, labels):
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count).astype(np.float32)
    segments = None
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        scores,
        np.array(labels, np.int64),
        CLASSES,
        image,
        60,
        40,
        None,
        segments,
    )


@pytest.fixture
def detections():
    return [
        found("x/a.jpg", [[10, 10, 30, 30], [1, 2, 3.25, 4]], [0, 1]),
        found("000000000139.jpg", [[5, 5, 35, 35]], [1]),
    ]


def same(predictions, detections, tolerance=0.006):
    for prediction, wanted in zip(predictions, detections, strict=True):
        assert np.allclose(prediction.boxes, wanted.boxes, atol=tolerance)
        assert np.allclose(prediction.scores, wanted.scores, atol=1e-5)
        assert prediction.labels.tolist() == wanted.labels.tolist()


def test_coco_results_come_back_by_the_published_ids(coco, detections, tmp_path):
    path = results.write_coco(tmp_path / "r.json", detections, image_ids=[70, 30], category_ids=[5, 9])
    assert json.loads(path.read_text())[0] == {"image_id": 70, "category_id": 5, "bbox": [10, 10, 20, 20], "score": 0.9}
    dataset = open_dataset(coco)
    predictions = results.read_coco(path, dataset)
    same(predictions, detections)
    truths = [dataset.truth(i) for i in range(2)]
    assert evaluate(truths, predictions, dataset.classes).mAP == pytest.approx(1.0)


def test_without_published_ids_an_image_is_its_name(coco, detections, tmp_path):
    path = results.write_coco(tmp_path / "r.json", detections, category_ids=[5, 9])
    assert {row["image_id"] for row in json.loads(path.read_text())} == {"a", 139}
    same(results.read_coco(path, open_dataset(coco)), detections)


def test_a_model_keeps_the_ids_of_what_it_learned_from(coco, tmp_path):
    dataset = open_dataset(coco)
    assert dataset.category_ids == (5, 9)
    assert open_dataset(coco, classes=["dog", "cat"]).category_ids == (9, 5)
    assert open_dataset("digits", "val").category_ids is None

    result = rcnn.train(
        "faster-rcnn/resnet18-fpn",
        coco,
        out=tmp_path / "run",
        steps=1,
        batch_size=1,
        settings={
            "data.train": "val",
            "model.image_size": [64, 96],
            "model.backbone.channels": 8,
            "model.box.hidden": [8],
            "model.box.score": 0.0,
        },
    )
    assert rcnn.load(result.run).category_ids == (5, 9)
    words = ["predict", str(result.run), str(coco), "--score", "0", "--coco", str(tmp_path / "r.json")]
    assert cli.main(words) == 0
    rows = json.loads((tmp_path / "r.json").read_text())
    assert {row["category_id"] for row in rows} <= {5, 9}
    assert rows
    assert sum(map(len, (each.boxes for each in results.read_coco(tmp_path / "r.json", dataset)))) == len(rows)

    description = json.loads((result.run / "best" / "model.json").read_text())
    (result.run / "best" / "model.json").write_text(json.dumps({**description, "category_ids": [5]}))
    with pytest.raises(UserError, match=r"category_ids = \[5\]: expected a whole number for each class"):
        rcnn.load(result.run)


def test_classes_that_are_not_judged_are_passed_over(coco, detections, tmp_path):
    path = results.write_coco(tmp_path / "r.json", detections, category_ids=[5, 9])
    predictions = results.read_coco(path, open_dataset(coco, classes=["dog"]))
    assert [prediction.labels.tolist() for prediction in predictions] == [[0], [0]]


def test_voc_results_count_pixels_from_one_and_come_back(coco, detections, tmp_path):
    paths = results.write_voc(tmp_path / "voc", detections, "val")
    assert [path.name for path in paths] == ["comp4_det_val_cat.txt", "comp4_det_val_dog.txt"]
    assert paths[0].read_text() == "a 0.900000 11.000 11.000 30.000 30.000\n"
    same(results.read_voc(tmp_path / "voc", open_dataset(coco)), detections)


def test_voc_results_of_another_splits_name_are_found(coco, detections, tmp_path):
    results.write_voc(tmp_path / "voc", detections, "test")
    same(results.read_voc(tmp_path / "voc", open_dataset(coco)), detections)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "expected a list"),
        ([1], "result 1 is not an object"),
        ([{"image_id": 71, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 1}], "image_id 71"),
        ([{"image_id": 70, "category_id": 6, "bbox": [1, 2, 3, 4], "score": 1}], "category_id 6"),
        ([{"image_id": 70, "category_id": 5, "bbox": [1, 2, 3], "score": 1}], "four numbers"),
        ([{"image_id": 70, "category_id": 5, "bbox": [1, 2, 3, 4]}], "a score"),
        (
            [{"image_id": 70, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 1, "segmentation": {"counts": "a"}}],
            "neither polygons nor RLE",
        ),
    ],
)
def test_unsound_coco_results_are_named(content, words, coco, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        results.read_coco(tmp_path / "r.json", open_dataset(coco))


@pytest.mark.parametrize(
    ("line", "words"), [("b 0.5 1 2 3 4", "no image 'b'"), ("a 0.5 1 2 3", "expected IMAGE SCORE")]
)
def test_unsound_voc_results_are_named(line, words, coco, tmp_path):
    (tmp_path / "comp4_det_val_cat.txt").write_text(line)
    with pytest.raises(UserError, match=words):
        results.read_voc(tmp_path, open_dataset(coco))
    with pytest.raises(UserError, match="holds no VOC results"):
        results.read_voc(tmp_path / "nowhere", open_dataset(coco))


def test_a_json_or_voc_files_are_results_and_a_model_is_none(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "r.json").write_text("[]")
    assert results.are_results(tmp_path / "r.json")
    assert not results.are_results(tmp_path / "model.json")
    assert not results.are_results(tmp_path)
    assert not results.are_results(tmp_path / "nowhere.json")


def test_supervisions_detections_become_ours():
    mask = np.zeros((2, 40, 60), bool)
    mask[1, 5:9, 3:7] = True
    theirs = SimpleNamespace(
        xyxy=np.array([[1, 2, 3, 4], [5, 6, 7, 8]]),
        confidence=np.array([0.2, 0.7]),
        class_id=np.array([1, 0]),
        mask=mask,
    )
    ours = results.from_supervision(theirs, CLASSES, image="a.jpg", size=(40, 60))
    assert ours.names == ["cat", "dog"]
    assert ours.boxes.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert (ours.masks == mask[::-1]).all()
    bare = SimpleNamespace(xyxy=theirs.xyxy, confidence=None, class_id=None, mask=None)
    assert results.from_supervision(bare, CLASSES, size=(40, 60)).scores.tolist() == [1, 1]
    theirs.class_id = np.array([1, 2])
    with pytest.raises(UserError, match="expected 0 to 1"):
        results.from_supervision(theirs, CLASSES, size=(40, 60))


def test_ours_go_to_supervision_and_back():
    pytest.importorskip("supervision")
    wanted = found("a.jpg", [[10, 10, 30, 30], [1, 2, 3.25, 4]], [0, 1])
    back = results.from_supervision(wanted.to_supervision(), CLASSES, image="a.jpg", size=(40, 60))
    assert back.to_dict() == wanted.to_dict()
