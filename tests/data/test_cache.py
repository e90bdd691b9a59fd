from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from rcnn.data import cache, coco, open_dataset
from rcnn.data.index import Strings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


@pytest.fixture
def readings(monkeypatch):
    """Counts how often COCO's reader runs."""
    seen = []
    read = coco.read
    monkeypatch.setattr(coco, "read", lambda root: seen.append(root) or read(root))
    return seen


def boxes_of(root):
    return open_dataset(root, "train").truth(0).boxes


def test_an_unchanged_data_set_is_parsed_once(make, readings, monkeypatch):
    root = make("coco")
    first = boxes_of(root)
    np.testing.assert_array_equal(boxes_of(root), first)
    monkeypatch.chdir(root.parent)
    np.testing.assert_array_equal(boxes_of(root.name), first)
    assert len(readings) == 1


def test_columns_are_mapped_not_read(make):
    root = make("coco")
    index = open_dataset(root).index
    assert isinstance(index.boxes, np.memmap)
    assert len(pickle.dumps(index)) < 500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(index)).boxes, index.boxes)


def test_a_changed_file_is_parsed_again(make, readings):
    root = make("coco")
    boxes_of(root)
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("[10, 20, 40, 40]", "[11, 20, 40, 40]"))
    os.utime(path, ns=(1, 1))
    assert boxes_of(root)[0, 0] == 11
    assert len(readings) == 2


def test_old_states_are_not_kept(make, own_cache):
    root = make("coco")
    for time in range(3):
        os.utime(root / "annotations" / "instances_train.json", ns=(time, time))
        boxes_of(root)
    assert len(list((own_cache / "data").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "other", "facts"])
def test_a_damaged_cache_is_passed_over(make, own_cache, readings, damage):
    root = make("coco")
    first = boxes_of(root)
    (folder,) = (own_cache / "data").iterdir()
    path = folder / "boxes.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 300)
    elif damage == "missing":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((1, 4), np.float32))
    else:
        (folder / "facts.json").write_text("{")
    np.testing.assert_array_equal(boxes_of(root), first)
    assert len(readings) == 2


def test_a_cache_that_cannot_be_written_is_done_without(make, own_cache):
    own_cache.write_text("a file where the folder should be")
    assert len(boxes_of(make("coco"))) == 2


def test_a_full_disk_leaves_no_half_cache(make, own_cache, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.columns.np, "save", full)
    assert len(boxes_of(make("coco"))) == 2
    assert list((own_cache / "data").iterdir()) == []


def test_pickling_outlives_the_cache(make, own_cache):
    index = open_dataset(make("coco")).index
    boxes = np.array(index.boxes)
    shutil.rmtree(own_cache)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(index)).boxes, boxes)


def test_strings_come_back():
    words = [b"", b"abc", b"", b"\xff\x00", b"x"]
    packed = Strings.of(words)
    assert [packed[i] for i in range(len(packed))] == words
