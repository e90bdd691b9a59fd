from __future__ import annotations

import pytest

from rcnn.data.checks import check
from rcnn.errors import UserError


@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_a_sound_data_set_has_no_problems(make, form):
    findings = check(str(make(form)))
    assert (findings.images, findings.objects, findings.problems) == (3, 3, [])


def test_every_problem_is_listed_not_only_the_first(make):
    root = make("voc")
    a, b = (root / "Annotations" / f"{name}.xml" for name in "ab")
    a.write_text(a.read_text().replace("<xmax>50<", "<xmax>5<").replace("<ymax>80<", "<ymax>95<"))
    b.write_text(b.read_text().replace("dog", ""))
    (root / "JPEGImages" / "c.jpg").write_bytes(b"")
    told = sorted((problem.file.rpartition("/")[2], problem.what) for problem in check(str(root)).problems)
    assert told[0] == ("a.xml', object 1", "box (10, 20, 5, 60) is inside out: its right or bottom comes first")
    assert told[1] == ("a.xml', object 2", "box (0, 0, 100, 95) lies outside its image of 100×80 pixels")
    assert told[2] == ("b.xml', object 1", "it has no <name>")
    assert told[3][0] == "c.jpg'"
    assert len(told) == 4


def test_an_image_in_two_splits_is_a_problem(make):
    root = make("voc")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\na\n")
    (problem,) = check(str(root)).problems
    assert "a.jpg" in problem.file
    assert "both train and val" in problem.what


def test_images_of_one_split_only_are_read(make):
    root = make("voc")
    (root / "JPEGImages" / "c.jpg").write_bytes(b"")
    assert check(str(root), "train").problems == []
    assert len(check(str(root), "val").problems) == 1


def test_broken_json_is_one_problem(make):
    root = make("coco")
    (root / "annotations" / "instances_train.json").write_text("{")
    (problem,) = check(str(root)).problems
    assert "not sound JSON" in problem.what


def test_a_missing_folder_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        check(str(tmp_path / "nowhere"))


def test_shared_data_are_sound(shared):
    assert check(str(shared / "bccd"), "test").problems == []
    assert check(str(shared / "coco128_train")).problems == []
