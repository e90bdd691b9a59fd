import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from rcnn import files
from rcnn.data import open_dataset
from rcnn.errors import RCNNError, UserError
from rcnn.proposals import CachedRegions, RegionMethod, RegionOptions, fill, regions

XML = (
    "<annotation><filename>{0}.png</filename><size><width>12</width><height>9</height><depth>3</depth></size>"
    "<object><name>a</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>7</xmax><ymax>7</ymax></bndbox></object>"
    "</annotation>"
)


class Brightest(RegionMethod):
    """Boxes that tell which pixels they came from, and how often it was asked."""

    def __init__(self, key="brightest", count=None):
        self._key, self.count, self.calls = key, count, 0

    @property
    def key(self):
        return self._key

    def search(self, pixels):
        self.calls += 1
        mean = float(pixels.mean())
        return np.array([[i, 0, i + mean, 1 + mean] for i in range(5)], np.float32)


@pytest.fixture
def dataset(tmp_path):
    """A VOC folder of six images of 9 × 12 pixels, the last two alike."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        paint(root / f"JPEGImages/im{i}.png", min(i, 4))
        (root / f"Annotations/im{i}.xml").write_text(XML.format(f"im{i}"))
    (root / "ImageSets/Main/train.txt").write_text("\n".join(f"im{i}" for i in range(6)))
    return open_dataset(root)


def paint(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)).save(path)


def wanted(dataset, index):
    return Brightest().search(dataset.image(index))


def entries(cached):
    return sorted(cached.folder.glob("*.boxes"))


def test_regions_are_found_once(dataset):
    method = Brightest()
    cached = CachedRegions(method)
    for _ in range(2):
        for index in range(6):
            np.testing.assert_array_equal(cached(dataset, index), wanted(dataset, index))
    assert method.calls == 5  # two images are alike
    again = Brightest()
    np.testing.assert_array_equal(CachedRegions(again)(dataset, 3), wanted(dataset, 3))
    assert again.calls == 0


def test_entries_lie_below_the_cache_folder_by_key(dataset, cache, tmp_path):
    CachedRegions(Brightest("one"))(dataset, 0)
    CachedRegions(Brightest("other"), tmp_path / "own")(dataset, 0)
    assert len(list((cache / "regions" / "one").iterdir())) == 1
    assert len(list((tmp_path / "own" / "other").iterdir())) == 1


def test_another_count_needs_no_new_search(dataset):
    CachedRegions(Brightest(count=2))(dataset, 0)
    method = Brightest(count=4)
    np.testing.assert_array_equal(CachedRegions(method)(dataset, 0), wanted(dataset, 0)[:4])
    assert method.calls == 0


def test_a_changed_image_is_never_answered_from_the_old_one(dataset):
    cached = CachedRegions(Brightest())
    before, path = cached(dataset, 0), dataset.path(0)
    state = path.stat()
    paint(path, 77)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # even one that pretends to be old
    for one in (cached, CachedRegions(Brightest())):
        np.testing.assert_array_equal(one(dataset, 0), wanted(dataset, 0))
    assert not np.array_equal(before, wanted(dataset, 0))


def test_other_settings_are_never_answered_from_these(dataset):
    from rcnn.proposals import method_of

    found = [CachedRegions(method_of(RegionOptions(min_side=side)))(dataset, 0) for side in (0.0, 12.0)]
    assert len(found[0]) > 0
    assert len(found[1]) == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "folder"])
def test_damaged_entries_are_made_anew(dataset, damage):
    cached = CachedRegions(Brightest())
    cached(dataset, 0)
    (entry,) = entries(cached)
    data = entry.read_bytes()
    if damage == "folder":
        entry.unlink()
        entry.mkdir()
        with pytest.raises(UserError, match="is a folder where a file was expected"):
            CachedRegions(Brightest())(dataset, 0)
        return
    flipped = data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]
    entry.write_bytes({"cut": data[:-3], "empty": b"", "flipped": flipped, "text": b"hello"}[damage])
    np.testing.assert_array_equal(CachedRegions(Brightest())(dataset, 0), wanted(dataset, 0))
    assert entry.read_bytes() == data


def test_an_image_without_regions_is_an_entry_too(dataset):
    class Nothing(Brightest):
        def search(self, pixels):
            self.calls += 1
            return np.zeros((0, 4), np.float32)

    method = Nothing()
    for _ in range(2):
        assert CachedRegions(method)(dataset, 0).shape == (0, 4)
    assert method.calls == 1


def test_what_is_given_can_be_written_to(dataset):
    cached = CachedRegions(Brightest())
    cached(dataset, 0)[:] = -1
    boxes = cached(dataset, 0)
    boxes[:] = -1
    np.testing.assert_array_equal(cached(dataset, 0), wanted(dataset, 0))


def test_workers_get_a_copy(dataset):
    cached = CachedRegions(Brightest(count=3))
    cached(dataset, 0)
    copy = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(copy(dataset, 0), wanted(dataset, 0)[:3])


@pytest.mark.parametrize("threads", [1, 4])
def test_filling_tells_how_far_it_is_and_finds_all(dataset, threads):
    told = []
    cached = CachedRegions(Brightest())
    fill(cached, dataset, threads=threads, done=told.append)
    assert told[-1] == 6
    assert told == sorted(told)
    assert len(entries(cached)) == 5
    some = CachedRegions(Brightest("some"))
    fill(some, dataset, indices=[1, 3])
    assert len(entries(some)) == 2


def test_filling_stops_where_it_is_asked_to_and_goes_on_there(dataset):
    asked = []

    def pause():
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    method = Brightest()
    with pytest.raises(KeyboardInterrupt):
        fill(CachedRegions(method), dataset, threads=1, pause=pause)
    before = method.calls
    assert 0 < before < 5
    fill(CachedRegions(method), dataset, threads=1)
    assert method.calls == 5


def test_filling_tells_of_an_image_that_cannot_be_read(dataset):
    dataset.path(2).write_bytes(b"")
    with pytest.raises(UserError, match=r"im2\.png"):
        fill(CachedRegions(Brightest()), dataset)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(dataset, monkeypatch):
    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(regions.Path, "write_bytes", full)
    cached = CachedRegions(Brightest())
    with pytest.raises(RCNNError, match="the disk is full"):
        fill(cached, dataset)
    assert list(cached.folder.iterdir()) == []
    assert files.telling is regions.telling


def test_what_killed_processes_left_is_swept_but_not_what_is_being_written(dataset):
    cached = CachedRegions(Brightest())
    cached.folder.mkdir(parents=True)
    old, young = cached.folder / "a.1-1.part", cached.folder / "b.2-2.part"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    fill(cached, dataset)
    assert not old.exists()
    assert young.exists()


def test_two_fillings_at_once_do_not_disturb_each_other(dataset):
    cached = CachedRegions(Brightest())
    errors = []

    def work():
        try:
            fill(CachedRegions(Brightest()), dataset, threads=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(entries(cached)) == 5
    for index in range(6):
        np.testing.assert_array_equal(cached(dataset, index), wanted(dataset, index))


KILLED = """
import os, sys, time
import numpy as np
from rcnn.data import open_dataset
from rcnn.proposals import CachedRegions, RegionMethod, fill
class Slow(RegionMethod):
    key = "slow"
    def search(self, pixels):
        time.sleep(0.02)
        return np.full((5000, 4), pixels.mean(), np.float32)
fill(CachedRegions(Slow()), open_dataset("digits", "val"), done=lambda count: print(count, flush=True))
"""


def test_a_kill_leaves_whole_entries_and_the_next_call_goes_on():
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) >= 10:
            child.send_signal(signal.SIGKILL)
            break
    child.communicate()

    class Counting(Brightest):
        def search(self, pixels):
            self.calls += 1
            return np.full((5000, 4), pixels.mean(), np.float32)

    method = Counting("slow")
    cached = CachedRegions(method)
    kept = len(entries(cached))
    assert 10 <= kept < 100
    digits = open_dataset("digits", "val")
    fill(cached, digits, threads=1)
    assert method.calls == 100 - kept
    assert (cached(digits, 5) == np.float32(digits.image(5).mean())).all()


def test_options_are_checked():
    with pytest.raises(UserError, match=r"count = 0"):
        RegionOptions(count=0)
    with pytest.raises(UserError, match="mode 'fastest'; did you mean 'fast'"):
        RegionOptions(mode="fastest")
