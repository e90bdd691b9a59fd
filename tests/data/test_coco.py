from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rcnn.data import coco, open_dataset
from rcnn.data.convert import convert
from rcnn.data.transforms import resize_truth
from rcnn.errors import UserError


def test_coco128_has_its_known_counts(shared):
    data = open_dataset(shared / "coco128_train" / "annotations" / "boxes.json")
    labels = data.columns()["labels"]
    assert (len(data), len(labels), len(set(labels.tolist()))) == (128, 929, 71)
    masks = open_dataset(shared / "coco128_train" / "annotations" / "instances_from_panoptic.json")
    columns = masks.columns()
    assert (len(masks), len(columns["labels"]), len(set(columns["labels"].tolist()))) == (100, 746, 69)
    assert columns["crowd"].sum() == 6


def test_boxes_are_those_of_the_json(shared):
    path = shared / "coco128_train" / "annotations" / "boxes.json"
    content = json.loads(path.read_text())
    names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    words = {entry["id"]: entry["name"] for entry in content["categories"]}
    expected: dict[str, list] = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        expected[names[entry["image_id"]]].append((words[entry["category_id"]], x, y, x + w, y + h))
    data = open_dataset(path)
    for i in range(len(data)):
        truth = data.truth(i)
        rows = expected[data.name(i)]
        assert [data.classes[k] for k in truth.labels] == [row[0] for row in rows]
        height, width = data.size(i)
        want = np.array([row[1:] for row in rows], np.float64).reshape(-1, 4).clip(0, [width, height] * 2)
        np.testing.assert_allclose(truth.boxes, want, atol=1e-4)


def test_of_several_files_the_fullest_is_taken_and_said(shared):
    data = open_dataset(shared / "coco128_train")
    assert len(data) == 128
    assert "'boxes.json' is used" in data.note
    assert "instances_from_panoptic.json" in data.note


def test_rle_masks_cover_their_boxes(shared):
    mask = pytest.importorskip("pycocotools.mask")
    data = open_dataset(shared / "coco128_train" / "annotations" / "instances_from_panoptic.json")
    for i in range(20):
        truth = data.truth(i)
        for box, segment in zip(truth.boxes, truth.segments, strict=True):
            x, y, w, h = mask.toBbox(segment)
            np.testing.assert_allclose(box, [x, y, x + w, y + h])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017.json", "train"),
        ("instances_val2017.json", "val"),
        ("person_valid.json", "val"),
        ("test-dev.json", "test"),
        ("trainval.json", "trainval"),
        ("medieval.json", "all"),
        ("latest.json", "all"),
    ],
)
def test_a_name_tells_the_split(tmp_path, name, split):
    assert coco.split_of(tmp_path / "annotations" / name) == split


@pytest.mark.parametrize(
    ("json_path", "image_path"),
    [
        ("annotations/instances_train2017.json", "train2017/a.jpg"),
        ("annotations/instances_train2017.json", "images/train2017/a.jpg"),
        ("annotations/train.json", "a.jpg"),
        ("annotations/train.json", "JPEGImages/a.jpg"),
        ("train.json", "a.jpg"),
        ("train.json", "images/a.jpg"),
        ("train/_annotations.coco.json", "train/a.jpg"),
    ],
)
def test_images_are_found_in_the_usual_places(tmp_path, draw_image, json_path, image_path):
    draw_image(tmp_path / image_path)
    path = tmp_path / json_path
    path.parent.mkdir(exist_ok=True)
    entry = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    path.write_text(json.dumps({"images": [entry], "annotations": [], "categories": [{"id": 1, "name": "x"}]}))
    for data in (tmp_path, path):
        dataset = open_dataset(data)
        assert dataset.splits == ("train",)
        assert dataset.image(0).shape == (80, 100, 3)


def test_ids_may_be_of_any_kind_and_categories_follow_them(make):
    root = make("coco")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["id"] = f"image-{entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"image-{entry['image_id']}"
    path.write_text(json.dumps(content))
    data = open_dataset(root, "train")
    assert data.classes == ("cat", "dog")  # ids 7 and 9, listed the other way round
    assert data.truth(0).labels.tolist() == [0, 1]


def test_splits_with_different_categories_are_refused(make):
    root = make("coco")
    path = root / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    with pytest.raises(UserError, match="different categories"):
        open_dataset(root)


def test_polygons_and_both_forms_of_rle_are_carried(make):
    root = make("coco")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    masks = [
        [[10, 20, 50, 20, 50, 60.5]],
        {"size": [80, 100], "counts": [0, 8000]},
        {"size": [80, 100], "counts": ":d0Ri7"},
    ]
    for entry, mask in zip(content["annotations"], masks, strict=True):
        entry["segmentation"] = mask
    path.write_text(json.dumps(content))
    data = open_dataset(root, "train")
    assert data.truth(0).segments + data.truth(1).segments == masks


@pytest.fixture
def stated(tmp_path, monkeypatch):
    """A COCO file of one image whose objects state these areas."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    areas = [55.5, 100, None, -1, "much", True, float("nan"), 0]
    (tmp_path / "data").mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "data" / "a.png")
    objects = [
        {"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [i, 2, 10, 10], "iscrowd": 0}
        | ({} if area is None else {"area": area})
        for i, area in enumerate(areas)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}]
    categories = [{"id": 1, "name": "mouse"}, {"id": 2, "name": "cat"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "data" / "train.json").write_text(json.dumps(content))
    return tmp_path / "data" / "train.json"


def test_a_stated_area_is_kept_and_what_is_none_is_not(stated):
    nan = float("nan")
    np.testing.assert_array_equal(open_dataset(stated).truth(0).areas, [55.5, 100, nan, nan, nan, nan, nan, 0])
    np.testing.assert_array_equal(open_dataset(stated).truth(0).areas[:1], [55.5], "from the cache too")
    np.testing.assert_array_equal(open_dataset(stated, classes=["cat"]).truth(0).areas, [100, nan, nan, 0])


@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_a_stated_area_survives_every_format(stated, tmp_path, form):
    convert(stated, form, tmp_path / "there")
    convert(tmp_path / "there", "coco", tmp_path / "back")
    (path,) = (tmp_path / "back" / "annotations").glob("*.json")
    written = [entry["area"] for entry in json.loads(path.read_text())["annotations"]]
    assert written == [55.5, 100, 100, 100, 100, 100, 100, 0], "the box's own where none is stated"


def test_resized_objects_state_no_area(stated):
    assert resize_truth(open_dataset(stated).truth(0), (40, 60), (80, 120)).areas is None
