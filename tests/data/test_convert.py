from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.data import open_dataset
from rcnn.data.convert import convert
from rcnn.data.writers import WRITERS
from rcnn.errors import RCNNError, UserError

FORMATS = ("voc", "coco", "yolo")


def content_of(data, *, names: bool = True) -> dict:
    """Everything that a data set says: by split and image the pixels' bytes and each object's facts."""
    dataset = open_dataset(data)
    content: dict = {"classes": dataset.classes}
    for split in dataset.splits:
        rows = set(dataset.index.members[split].tolist())
        for i in [i for i in range(len(dataset)) if int(dataset.rows[i]) in rows]:
            truth = dataset.truth(i)
            key = (split, dataset.name(i) if names else dataset.path(i).read_bytes())
            content[key] = {
                "bytes": dataset.path(i).read_bytes(),
                "size": dataset.size(i),
                "boxes": truth.boxes,
                "facts": (truth.labels.tolist(), truth.difficult.tolist(), truth.crowd.tolist(), truth.segments),
            }
    return content


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert one["classes"] == other["classes"]
    for key in one.keys() - {"classes"}:
        assert one[key]["bytes"] == other[key]["bytes"]
        assert one[key]["size"] == other[key]["size"]
        assert one[key]["facts"] == other[key]["facts"]
        np.testing.assert_allclose(one[key]["boxes"], other[key]["boxes"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [*product(FORMATS, FORMATS)])
def test_a_round_trip_changes_nothing(make, tmp_path, first, second):
    source = make(first)
    convert(source, second, tmp_path / "there")
    convert(tmp_path / "there", first, tmp_path / "back")
    assert_same(content_of(source), content_of(tmp_path / "there"))
    assert_same(content_of(source), content_of(tmp_path / "back"))


@pytest.mark.parametrize("form", FORMATS)
def test_crowds_and_rle_masks_survive(shared, tmp_path, form):
    source = shared / "coco128_train" / "annotations" / "instances_from_panoptic.json"
    convert(source, form, tmp_path / "there")
    convert(tmp_path / "there", "coco", tmp_path / "back")
    one, other = content_of(source), content_of(tmp_path / "back")
    if form == "yolo":  # which has no images outside splits
        other = {("all", key[1]) if key != "classes" else key: value for key, value in other.items()}
    assert_same(one, other)


def test_voc_keeps_all_its_lists(shared, tmp_path):
    convert(shared / "bccd", "voc", tmp_path / "out")
    assert_same(content_of(shared / "bccd"), content_of(tmp_path / "out"))


def test_where_splits_overlap_each_image_is_written_once_and_that_is_said(shared, tmp_path):
    result = convert(shared / "bccd", "yolo", tmp_path / "out")
    assert result.splits == {"train": 205, "val": 87, "test": 72}
    assert "'trainval' overlaps" in " ".join(result.notes)


def test_digits_can_be_written_in_every_format(tmp_path, monkeypatch):
    from rcnn.data import digits

    made = digits.generate("val")
    few = dataclasses.replace(
        made,
        **{key: getattr(made, key)[:4] for key in ("images", "instances", "boxes", "labels", "sources")},
    )
    monkeypatch.setattr(digits, "generate", lambda split: few)
    source = open_dataset("digits")
    for form in FORMATS:
        result = convert("digits", form, tmp_path / form)
        assert result.splits == {"train": 4, "val": 4, "test": 4}
        data = open_dataset(tmp_path / form)
        where = {data.name(i): i for i in range(len(data))}
        for i in range(12):
            j = where[source.name(i)]
            np.testing.assert_array_equal(data.image(j), source.image(i))
            np.testing.assert_allclose(data.truth(j).boxes, source.truth(i).boxes, atol=1e-5)
            assert data.truth(j).segments == source.truth(i).segments


def test_images_of_one_name_in_two_splits_stay_apart(make, tmp_path, draw_image):
    root = make("yolo")
    draw_image(root / "images" / "val" / "a.jpg", (20, 30))
    assert convert(root, "yolo", tmp_path / "same").notes[0].startswith("YOLO")
    result = convert(root, "voc", tmp_path / "voc")
    assert "'a.jpg' to 'val/a.jpg'" in " ".join(result.notes)
    val = open_dataset(tmp_path / "voc", "val")
    assert {val.name(i): val.size(i) for i in range(len(val))} == {"val/a.jpg": (20, 30), "c.jpg": (80, 100)}


@pytest.mark.parametrize("form", FORMATS)
def test_names_that_differ_in_suffix_only_stay_apart(tmp_path, draw_image, form):
    import json

    images = []
    for k, name in enumerate(("a.jpg", "a.png", "A.bmp", "with space 1.jpg", "ü & <b>.jpg")):
        draw_image(tmp_path / "src" / "images" / name, (20 + k, 30))
        images.append({"id": k, "file_name": name})
    content = {"images": images, "annotations": [], "categories": [{"id": 0, "name": "x & <y>"}]}
    (tmp_path / "src" / "all.json").write_text(json.dumps(content))
    convert(tmp_path / "src", form, tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert data.classes == ("x & <y>",)
    assert sorted(data.size(i)[0] for i in range(len(data))) == [20, 21, 22, 23, 24]
    assert {"a.jpg", "with space 1.jpg", "ü & <b>.jpg"} <= {data.name(i) for i in range(len(data))}
    assert all(data.image(i).shape[:2] == data.size(i) for i in range(len(data)))


coordinates = st.floats(0, 1, width=32)
masks = st.one_of(
    st.none(),
    st.just([[1.5, 2.25, 30, 4, 5.125, 60]]),
    st.just({"size": [80, 100], "counts": [10, 7990]}),
    st.just({"size": [80, 100], "counts": ":d0Ri7"}),
)
one_object = st.tuples(st.integers(0, 2), *[coordinates] * 4, st.booleans(), st.booleans(), masks)


@settings(max_examples=25, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.sampled_from(["train", "val", "test"]), st.lists(one_object, max_size=4)), min_size=1, max_size=5
    ),
    way=st.permutations(FORMATS),
)
def test_random_data_sets_survive_the_way_through_all_formats(images, way):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        write_random(source, images)
        before = source
        for form in way:
            convert(before, form, Path(folder, form))
            before = Path(folder, form)
            assert_same(content_of(source), content_of(before))


def write_random(root: Path, images: list) -> None:
    """A COCO data set of random objects on images of 100×80 pixels."""
    import json

    from PIL import Image

    (root / "images").mkdir(parents=True)
    categories = [{"id": k, "name": name} for k, name in enumerate(("zebra", "a cat", "7"))]
    contents: dict = {}
    for i, (split, objects) in enumerate(images):
        Image.new("L", (100, 80), i).save(root / "images" / f"{i}.png")
        content = contents.setdefault(split, {"images": [], "annotations": [], "categories": categories})
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 100, "height": 80})
        for label, x, y, w, h, difficult, crowd, mask in objects:
            x, y = x * 90, y * 70
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": i,
                    "category_id": label,
                    "bbox": [x, y, 0.01 + w * (99.9 - x), 0.01 + h * (79.9 - y)],
                    "iscrowd": int(crowd),
                    "ignore": int(difficult),
                    "segmentation": mask,
                }
            )
    for split, content in contents.items():
        (root / f"{split}.json").write_text(json.dumps(content))


def test_a_folder_that_is_not_empty_is_refused(make, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        convert(make("voc"), "coco", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]
    with pytest.raises(UserError, match="is a file"):
        convert(tmp_path / "voc", "coco", tmp_path / "out" / "precious.txt")


def test_an_empty_folder_is_used(make, tmp_path):
    (tmp_path / "out").mkdir()
    convert(make("voc"), "coco", tmp_path / "out")
    assert len(open_dataset(tmp_path / "out")) == 3


@pytest.mark.parametrize("place", ["copyfile", "write_text", "replace"])
def test_a_full_disk_leaves_nothing_behind(make, tmp_path, monkeypatch, place):
    source = make("voc")
    open_dataset(source)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr({"copyfile": shutil, "write_text": Path, "replace": os}[place], place, full)
    with pytest.raises(RCNNError, match="disk is full") as caught:
        convert(source, "yolo", tmp_path / "out" / "deep")
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if ".part" in path.name or path.name == "deep"] == []


def test_an_unknown_format_is_refused(make, tmp_path):
    with pytest.raises(UserError, match="no format 'cocoo'; did you mean 'coco'"):
        convert(make("voc"), "cocoo", tmp_path / "out")
    assert set(WRITERS) == {*FORMATS, "masks"}
