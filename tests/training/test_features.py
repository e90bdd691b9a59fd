"""Features on disk: read back as they were written, whole after a kill, never stale, and one sentence when the disk is
full."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rcnn.errors import RCNNError
from rcnn.training import features
from rcnn.training.features import FeatureFiles, Layout

LAYOUT = Layout("key", np.array([3, 0, 2, 4]), np.array([1, 0, 0, 2]), 5, 7, "float32")


def rows(image, layout=LAYOUT):
    random = np.random.default_rng(image)
    shapes = (layout.fc7_rows[image], layout.fc7_width), (layout.pool5_rows[image], layout.pool5_width)
    return tuple(random.normal(size=shape).astype(np.float32) for shape in shapes)


def written(folder, images, layout=LAYOUT):
    files = FeatureFiles(folder, layout)
    for image in images:
        files.write(image, *rows(image, layout))
    return files


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_rows_come_back_as_they_were_written(tmp_path, stored):
    layout = replace(LAYOUT, stored=stored)
    written(tmp_path, [3, 0, 2, 1], layout)
    files = FeatureFiles(tmp_path, layout)
    assert files.done.all()
    for image in range(4):
        fc7, pool5 = rows(image, layout)
        np.testing.assert_array_equal(files.fc7(image), fc7.astype(stored))
        np.testing.assert_array_equal(files.pool5(image), pool5.astype(stored))
        assert files.fc7(image).dtype == np.float32


def test_the_size_is_known_before_and_taken_at_once(tmp_path):
    assert LAYOUT.sizes == {"fc7.bin": 9 * 5 * 4, "pool5.bin": 3 * 7 * 4}
    FeatureFiles(tmp_path, LAYOUT)
    assert (tmp_path / "fc7.bin").stat().st_size == 180
    assert "9 × 5" in str(LAYOUT)


def test_images_that_are_done_stay_done(tmp_path):
    written(tmp_path, [0, 2])
    assert FeatureFiles(tmp_path, LAYOUT).done.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "other",
    [
        replace(LAYOUT, key="other"),
        replace(LAYOUT, fc7_width=6),
        replace(LAYOUT, fc7_rows=np.array([3, 0, 2, 5])),
        replace(LAYOUT, stored="float16"),
    ],
)
def test_features_of_anything_else_are_thrown_away(tmp_path, other):
    written(tmp_path, range(4))
    files = FeatureFiles(tmp_path, other)
    assert not files.done.any()
    assert not files.fc7(0).any()


@pytest.mark.parametrize("name", ["fc7.bin", "pool5.bin", "done.bin", "features.json"])
def test_a_folder_that_lacks_something_is_begun_anew(tmp_path, name):
    written(tmp_path, range(4))
    (tmp_path / name).unlink()
    assert not FeatureFiles(tmp_path, LAYOUT).done.any()


def test_a_cut_file_is_begun_anew(tmp_path):
    written(tmp_path, range(4))
    with open(tmp_path / "fc7.bin", "rb+") as file:
        file.truncate(100)
    assert not FeatureFiles(tmp_path, LAYOUT).done.any()


def test_after_a_kill_what_counts_as_done_is_whole(tmp_path):
    """A process writes images one after the other and is killed in the middle, a few times over."""
    script = (
        "import sys, os, numpy as np\n"
        "from pathlib import Path\n"
        "from rcnn.training.features import FeatureFiles, Layout\n"
        "layout = Layout('key', np.full(400, 50), np.full(400, 3), 64, 32, 'float32')\n"
        "files = FeatureFiles(Path(sys.argv[1]), layout)\n"
        "print('ready', flush=True)\n"
        "for image in np.flatnonzero(~files.done).tolist():\n"
        "    files.write(image, np.full((50, 64), image + 1.0), np.full((3, 32), image + 0.5))\n"
        "    print(image, flush=True)\n"
    )
    layout = Layout("key", np.full(400, 50), np.full(400, 3), 64, 32, "float32")
    before = 0
    for lines in (1, 3, 40):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        files = FeatureFiles(tmp_path, layout)
        assert files.done.sum() >= before + lines - 1
        before = int(files.done.sum())
        for image in np.flatnonzero(files.done).tolist():
            assert (files.fc7(image) == image + 1).all()
            assert (files.pool5(image) == image + 0.5).all()
    assert 0 < before < 400


def test_a_disk_without_room_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(RCNNError, match="GiB left") as caught:
        FeatureFiles(tmp_path, LAYOUT)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    with pytest.raises(RCNNError, match="disk is full"):
        FeatureFiles(tmp_path, LAYOUT)
    assert not list(tmp_path.iterdir())


def test_rows_of_another_number_are_refused(tmp_path):
    files = FeatureFiles(tmp_path, LAYOUT)
    with pytest.raises(RCNNError, match="rows"):
        files.write(0, np.zeros((2, 5)), np.zeros((1, 7)))
