from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import open_dataset
from rcnn.errors import UserError

FORMATS = ("voc", "coco", "yolo")


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_data_set_is_the_same_in_every_format(make, form):
    data = open_dataset(make(form), "train")
    assert data.classes == ("cat", "dog")
    assert data.splits == ("train", "val")
    assert [data.name(i) for i in range(len(data))] == ["a.jpg", "b.jpg"]
    truth = data.truth(0)
    np.testing.assert_allclose(truth.boxes, [[10, 20, 50, 60], [0, 0, 100, 80]], atol=1e-5)
    assert truth.boxes.dtype == np.float32
    assert truth.labels.dtype == np.int64
    assert truth.labels.tolist() == [0, 1]
    assert truth.difficult.tolist() == [True, False]
    assert truth.ignore.tolist() == [True, False]
    np.testing.assert_allclose(data.truth(1).boxes, [[30.5, 10.25, 60.5, 70]], atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_images_and_sizes_agree(make, form):
    data = open_dataset(make(form))
    for i in range(len(data)):
        assert data.image(i).shape == (*data.size(i), 3)
        assert data.path(i).is_file()
    np.testing.assert_array_equal(data.sizes, [[80, 100]] * 3)


@pytest.mark.parametrize("form", FORMATS)
def test_an_image_without_objects_is_ordinary(make, form):
    truth = open_dataset(make(form), "val").truth(0)
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == truth.ignore.shape == (0,)
    assert truth.segments == []


@pytest.mark.parametrize("form", FORMATS)
def test_chosen_classes_are_renumbered_and_others_dropped(make, form):
    data = open_dataset(make(form), classes=["dog"])
    assert data.classes == ("dog",)
    assert [data.truth(i).labels.tolist() for i in range(3)] == [[0], [0], []]
    swapped = open_dataset(data.data, classes=["dog", "cat"])
    assert swapped.truth(0).labels.tolist() == [1, 0]


def test_columns_are_the_truths_of_all_images_in_a_row(shared):
    data = open_dataset(shared / "voc2012_mini", "val", classes=["dog", "person"])
    columns = data.columns()
    truths = [data.truth(i) for i in range(len(data))]
    np.testing.assert_array_equal(columns["boxes"], np.concatenate([t.boxes for t in truths]))
    np.testing.assert_array_equal(columns["labels"], np.concatenate([t.labels for t in truths]))
    np.testing.assert_array_equal(columns["difficult"], np.concatenate([t.difficult for t in truths]))
    np.testing.assert_array_equal(columns["image"], np.repeat(range(len(data)), [len(t) for t in truths]))


def test_an_unknown_class_is_refused_with_the_nearest(make):
    with pytest.raises(UserError, match="no class 'dgo'; did you mean 'dog'"):
        open_dataset(make("voc"), classes=["dgo"])


def test_a_missing_path_is_refused_with_the_nearest(make):
    root = make("voc")
    with pytest.raises(UserError, match=f"did you mean '{root.parent}/voc/Annotations'"):
        open_dataset(root.parent / "vic" / "Annotations")


def test_a_folder_of_no_known_format_says_what_was_looked_for(tmp_path: Path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"VOC root .*Annotations.* COCO .*annotations/\*\.json.* YOLO data\.yaml"):
        open_dataset(tmp_path)


def test_an_image_of_another_size_than_annotated_is_refused_when_read(make, draw_image):
    root = make("voc")
    draw_image(root / "JPEGImages" / "a.jpg", (40, 50))
    with pytest.raises(UserError, match=r"a\.jpg': the image is 50×40 pixels but annotated as 100×80"):
        open_dataset(root, "train").image(0)


def test_an_exif_turned_image_annotated_unturned_is_explained(make, draw_image):
    from PIL import Image

    root = make("coco")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_image(root / "images" / "a.jpg", exif=exif)
    with pytest.raises(UserError, match="EXIF orientation turns it on its side"):
        open_dataset(root, "train").image(0)


@pytest.mark.parametrize("form", FORMATS)
def test_a_data_set_survives_pickling_small(make, form):
    data = open_dataset(make(form), "train")
    sent = pickle.dumps(data)
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.truth(1).boxes, data.truth(1).boxes)
    np.testing.assert_array_equal(again.image(0), data.image(0))


def test_digits_open_like_any_data_set():
    data = open_dataset("digits", "val")
    assert data.splits == ("train", "val", "test")
    assert len(data) == 100
    assert data.classes == tuple("0123456789")
    for i in range(5):
        truth = data.truth(i)
        assert data.image(i).shape == (240, 320, 3)
        for box, segment in zip(truth.boxes.tolist(), truth.segments, strict=True):
            runs = np.repeat(np.arange(len(segment["counts"])) % 2, segment["counts"]).astype(bool)
            ys, xs = np.nonzero(runs.reshape(320, 240).T)
            assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == box
    assert len(pickle.dumps(data)) < 1000


def test_reading_annotations_needs_no_torch(make):
    root = make("coco")
    code = (
        f"import sys; from rcnn.data import open_dataset; open_dataset({str(root)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), timeout=120).returncode == 0
