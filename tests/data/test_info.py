from __future__ import annotations

import json

import numpy as np

from rcnn.data import open_dataset
from rcnn.data.info import summarise


def test_figures_are_those_counted_by_hand(make):
    summary = summarise(open_dataset(make("coco")))
    assert summary["images"] == 3
    assert summary["objects"] == 3
    assert summary["splits"] == {"train": 2, "val": 1}
    assert summary["classes"] == {"cat": {"objects": 1, "images": 1}, "dog": {"objects": 2, "images": 2}}
    assert summary["images_without_objects"] == 1
    assert summary["difficult"] == 1
    assert summary["image_size"]["median"] == [100, 80]
    sides = np.sqrt([40 * 40, 100 * 80, 30 * 59.75])
    assert summary["object_size"]["median"] == round(float(np.median(sides)), 1)
    assert summary["objects_per_image"]["largest"] == 2
    json.dumps(summary, allow_nan=False)


def test_small_objects_call_for_fpn_and_larger_images(shared):
    advice = " ".join(summarise(open_dataset(shared / "coco128_train"))["advice"])
    assert "use an FPN backbone, `--image-size" in advice
    assert "9 of 80 classes have no objects" in advice
    assert "'person' is 254 times as frequent" in advice


def test_masks_and_crowds_are_counted(shared):
    path = shared / "coco128_train" / "annotations" / "instances_from_panoptic.json"
    summary = summarise(open_dataset(path))
    assert (summary["masks"], summary["crowd"]) == (746, 6)


def test_a_data_set_without_objects_has_figures_too(make):
    summary = summarise(open_dataset(make("voc"), "val"))
    assert summary["objects"] == 0
    assert summary["object_size"] == {}
    assert "no objects" in summary["advice"][0]


def test_objects_annotated_twice_are_counted(make):
    root = make("coco")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 999})
    path.write_text(json.dumps(content))
    assert summarise(open_dataset(root))["annotated_twice"] == 1
