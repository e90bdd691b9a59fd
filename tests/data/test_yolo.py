from __future__ import annotations

import numpy as np
import pytest

from rcnn.data import open_dataset
from rcnn.errors import UserError


def test_coco128_labels_equal_its_json(shared, tmp_path):
    import yaml

    source = shared / "coco128_train"
    oracle = open_dataset(source / "annotations" / "boxes.json")
    (tmp_path / "images").symlink_to(source / "images")
    (tmp_path / "labels").symlink_to(source / "labels_yolo")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "images", "names": dict(enumerate(oracle.classes))}))
    data = open_dataset(tmp_path)
    assert len(data.columns()["labels"]) == 929
    where = {oracle.name(i): i for i in range(len(oracle))}
    for i in range(len(data)):
        truth, want = data.truth(i), oracle.truth(where[data.name(i)])
        np.testing.assert_array_equal(truth.labels, want.labels)
        np.testing.assert_allclose(truth.boxes, want.boxes, atol=0.02)  # the JSON has two decimals


def test_a_polygon_line_gives_its_extent_as_box(make):
    root = make("yolo")
    (root / "labels" / "train" / "b.txt").write_text("1 0.1 0.2 0.5 0.25 0.3 0.75\n")
    truth = open_dataset(root, "train").truth(1)
    np.testing.assert_allclose(truth.boxes, [[10, 16, 50, 60]])
    np.testing.assert_allclose(truth.segments[0], [[10, 16, 50, 20, 30, 60]])


@pytest.mark.parametrize(
    "text",
    [
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "train: [images/train]\nval: images/val\nnc: 2\nnames:\n  - cat\n  - dog\n",
        "train: ../images/train\nvalid: ../images/val\nnames: [cat, dog]\n",
        "train: train.txt\nval: images/val/c.jpg\nnames: [cat, dog]\n",
    ],
)
def test_images_may_be_named_in_several_ways(make, text):
    root = make("yolo")
    (root / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n")
    (root / "data.yaml").write_text(text)
    for data in (root, root / "data.yaml"):
        train, val = open_dataset(data, "train"), open_dataset(data, "val")
        assert (len(train), len(val)) == (2, 1)
        assert train.truth(0).labels.tolist() == [0, 1]
        assert train.image(0).shape == (80, 100, 3)


def test_only_the_last_folder_called_images_becomes_labels(make):
    root = make("yolo")
    home = root.parent / "images"
    root.rename(home)
    assert len(open_dataset(home, "train").truth(0)) == 2


def test_numbers_are_names_too(make):
    root = make("yolo")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [0, 1]\n")
    assert open_dataset(root).classes == ("0", "1")


def test_a_python_object_in_the_yaml_is_refused(make):
    root = make("yolo")
    (root / "data.yaml").write_text("train: !!python/object/apply:os.system [echo]\nnames: [a]\n")
    with pytest.raises(UserError, match="not sound YAML"):
        open_dataset(root)
