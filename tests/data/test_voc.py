from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from rcnn import rle
from rcnn.data import open_dataset, voc
from rcnn.data.checks import check
from rcnn.errors import UserError


def test_bccd_has_its_known_counts(shared):
    sizes = {split: len(open_dataset(shared / "bccd", split)) for split in ("train", "val", "test", "trainval")}
    assert sizes == {"train": 205, "val": 87, "test": 72, "trainval": 292}
    data = open_dataset(shared / "bccd")
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert np.bincount(data.columns()["labels"]).tolist() == [361, 4153, 372]


def test_voc2012_mini_has_its_known_counts(shared):
    train, val = (open_dataset(shared / "voc2012_mini", split) for split in ("train", "val"))
    assert (len(train), len(train.columns()["labels"])) == (645, 1462)
    assert (len(val), len(val.columns()["labels"])) == (285, 694)
    counts = dict(zip(val.classes, np.bincount(val.columns()["labels"]).tolist(), strict=True))
    assert counts["person"] == 140
    assert counts["motorbike"] == 2


def test_voc_and_coco_forms_of_voc2012_mini_agree(shared):
    for split in ("train", "val"):
        a = open_dataset(shared / "voc2012_mini", split)
        b = open_dataset(shared / "voc2012_mini" / "coco" / f"det_{split}.json")
        assert a.classes == b.classes
        where = {b.name(j): b.truth(j) for j in range(len(b))}
        assert len(where) == len(a)
        for i in range(len(a)):
            mine, other = a.truth(i), where[a.name(i)]
            np.testing.assert_array_equal(mine.boxes, other.boxes)
            np.testing.assert_array_equal(mine.labels, other.labels)
            np.testing.assert_array_equal(mine.difficult, other.difficult)


def test_pixels_count_from_one_and_the_last_belongs_to_the_box(shared):
    path = shared / "bccd" / "Annotations" / "BloodImage_00000.xml"
    corners = ElementTree.parse(path).find("object/bndbox")
    xmin, ymin, xmax, ymax = (int(corners.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    data = open_dataset(shared / "bccd")
    i = next(i for i in range(len(data)) if data.name(i) == "BloodImage_00000.jpg")
    x1, y1, x2, y2 = data.truth(i).boxes[0].tolist()
    covered = {(x, y) for x in range(1, 641) for y in (ymin, ymax) if xmin <= x <= xmax}
    assert covered == {(x + 1, y + 1) for x in range(int(x1), int(x2)) for y in (int(y1), int(y2) - 1)}


def test_a_zero_based_file_is_cut_to_the_image_and_counted(make):
    root = make("voc")
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<xmin>1<", "<xmin>0<"))
    data = open_dataset(root, "train")
    assert data.truth(0).boxes[1].tolist() == [0, 0, 100, 80]
    assert "by up to 1 px: 1." in data.note


def test_lists_of_one_class_are_no_splits(make):
    root = make("voc")
    (root / "ImageSets" / "Main" / "dog_train.txt").write_text("a  1\nb -1\n")
    assert open_dataset(root).splits == ("train", "val")


def test_without_lists_every_annotation_counts(make):
    root = make("voc")
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()
    data = open_dataset(root)
    assert data.splits == ("all",)
    assert len(data) == 3


def test_a_size_that_is_not_stated_comes_from_the_image(make):
    root = make("voc")
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<width>100</width>", "<width>0</width>"))
    assert open_dataset(root, "train").size(0) == (80, 100)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_in_any_encoding(make, encoding):
    root = make("voc")
    path = root / "Annotations" / "a.xml"
    bomb = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    path.write_bytes((f'<?xml version="1.0" encoding="{encoding}"?>{bomb}' + path.read_text()).encode(encoding))
    with pytest.raises(UserError, match=r"a\.xml': the file declares a document type"):
        open_dataset(root)
    with pytest.raises(UserError, match="document type"):
        voc.parse(path)


def test_the_100_golden_annotations_are_equal_in_three_formats(shared, tmp_path):
    """The COCO and YOLO forms were made from VOC's numbers without counting from 0: x = xmin, width = xmax − xmin.

    So VOC's own rule gives boxes that begin one pixel earlier; YOLO's six decimals are good to 0.0005 px.
    """
    golden = shared / "golden" / "voc2012_100_formats" / "gts"
    photos = shared / "voc2012_mini" / "JPEGImages"
    names = sorted(path.stem for path in (golden / "pascalvoc_format").glob("*.xml"))
    assert len(names) == 100

    forms = {form: tmp_path / form for form in ("voc", "coco", "yolo")}
    (forms["voc"] / "ImageSets").mkdir(parents=True)
    (forms["voc"] / "Annotations").symlink_to(golden / "pascalvoc_format")
    (forms["voc"] / "JPEGImages").symlink_to(photos)
    (forms["coco"] / "annotations").mkdir(parents=True)
    (forms["coco"] / "annotations" / "all.json").symlink_to(golden / "coco_format_v1" / "instances_default.json")
    (forms["coco"] / "images").symlink_to(photos)
    (forms["yolo"] / "images").mkdir(parents=True)
    (forms["yolo"] / "labels").symlink_to(golden / "yolo_format" / "obj_train_data")
    for name in names:
        (forms["yolo"] / "images" / f"{name}.jpg").symlink_to(photos / f"{name}.jpg")
    classes = (golden / "yolo_format" / "obj.names").read_text().split()
    (forms["yolo"] / "data.yaml").write_text(f"train: images\nnames: {classes}\n")

    boxes = {}
    for form, root in forms.items():
        data = open_dataset(root)
        assert len(data) == 100
        for i in range(100):
            truth = data.truth(i)
            rows = sorted(
                (data.classes[k], *box) for k, box in zip(truth.labels.tolist(), truth.boxes.tolist(), strict=True)
            )
            boxes[form, data.name(i)] = rows
    for name in (f"{name}.jpg" for name in names):
        voc_rows, coco_rows, yolo_rows = (boxes[form, name] for form in ("voc", "coco", "yolo"))
        assert [(word, x1 + 1, y1 + 1, x2, y2) for word, x1, y1, x2, y2 in voc_rows] == coco_rows
        assert [row[0] for row in yolo_rows] == [row[0] for row in coco_rows]
        np.testing.assert_allclose([r[1:] for r in yolo_rows], [r[1:] for r in coco_rows], atol=5e-4)
    assert sum(len(boxes["voc", f"{name}.jpg"]) for name in names) == 273


def write_masks(root, numbers, name="a"):
    """A SegmentationObject picture of these numbers [H, W]."""
    path = root / "SegmentationObject" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(np.asarray(numbers, np.uint8))
    picture.putpalette(list(range(256)) * 3)
    picture.save(path)
    return path


def numbered():
    """The numbers of the two objects of image a, 80 × 100, with void between them."""
    numbers = np.zeros((80, 100), np.uint8)
    numbers[:, 60:] = 2
    numbers[20:60, 10:50] = 1
    numbers[18:20, 10:50] = 255
    return numbers


def test_masks_come_from_segmentation_object_by_the_order_of_the_xml(make):
    root = make("voc")
    assert open_dataset(root, "train").truth(0).segments == [None, None]
    write_masks(root, numbered())
    data = open_dataset(root, "train")  # the cached index knew no masks
    assert data.masked.tolist() == [True, True, False]
    for k, segment in enumerate(data.truth(0).segments, 1):
        assert (rle.decode(segment) == (numbered() == k)).all()
    only_one = np.where(numbered() == 2, 0, numbered())
    write_masks(root, only_one)
    assert open_dataset(root, "train").masked.tolist() == [True, False, False]


def test_what_is_wrong_with_masks_is_said_in_one_sentence(make):
    root = make("voc")
    bad = {
        "60×40 pixels where the image has 100×80": np.zeros((40, 60)),
        "value 7 stands for no object: the annotation has 2": np.where(numbered() == 2, 7, 0),
    }
    for said, numbers in bad.items():
        write_masks(root, numbers)
        with pytest.raises(UserError, match=said):
            open_dataset(root)
        assert [said in str(problem) for problem in check(str(root)).problems] == [True]
    path = write_masks(root, numbered())
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset(root)
    Image.new("RGB", (100, 80)).save(path)
    with pytest.raises(UserError, match="no picture of 8-bit numbers"):
        open_dataset(root)


def test_masks_of_voc2012_mini_are_those_of_its_coco_form(shared):
    mine = open_dataset(shared / "voc2012_mini", "val")
    other = open_dataset(shared / "voc2012_mini" / "coco" / "inst_val.json")
    where = {mine.name(i): i for i in range(len(mine))}
    assert other.masked.sum() == 333
    for j in range(len(other)):
        for a, b in zip(mine.truth(where[other.name(j)]).segments, other.truth(j).segments, strict=True):
            assert (rle.counts(a) == rle.counts(b)).all()
