"""What users get wrong, one by one: each is refused in one sentence that names it, with exit code 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rcnn import cli

A = "Annotations/a.xml"
MAIN = "ImageSets/Main"
TRAIN = "annotations/instances_train.json"


@dataclass
class Bad:
    """A fault put into a sound data set: its format, what to do to its folder, and words that must be told."""

    name: str
    form: str
    spoil: Callable[[Path], object]
    words: tuple[str, ...]


def text(file: str, old: str, new: str) -> Callable[[Path], object]:
    """Replaces text in a file, which must be there."""

    def spoil(root: Path) -> None:
        sound = (root / file).read_text()
        assert old in sound
        (root / file).write_text(sound.replace(old, new, 1))

    return spoil


def entry(kind: str, number: int, **values: object) -> Callable[[Path], object]:
    """Changes an entry of the training JSON."""

    def spoil(root: Path) -> None:
        content = json.loads((root / TRAIN).read_text())
        content[kind][number].update(values)
        (root / TRAIN).write_text(json.dumps(content))

    return spoil


def whole(file: str, content: bytes) -> Callable[[Path], object]:
    """Writes a file anew."""
    return lambda root: (root / file).write_bytes(content)


def cut(file: str) -> Callable[[Path], object]:
    """Cuts a file to half its length."""
    return lambda root: os.truncate(root / file, (root / file).stat().st_size // 2)


def gone(file: str) -> Callable[[Path], object]:
    """Removes a file."""
    return lambda root: (root / file).unlink()


BAD = [
    Bad("VOC: broken XML", "voc", text(A, "</object>", ""), ("a.xml", "XML is broken")),
    Bad("VOC: empty XML", "voc", whole(A, b""), ("a.xml", "file is empty")),
    Bad("VOC: DTD", "voc", text(A, "<annotation>", "<!DOCTYPE a><annotation>"), ("a.xml", "document type")),
    Bad(
        "VOC: entity",
        "voc",
        text(A, "<annotation>", '<!DOCTYPE a [<!ENTITY e "x">]><annotation>&e;'),
        ("a.xml", "document type"),
    ),
    Bad("VOC: missing XML", "voc", gone(A), ("a.xml", "missing")),
    Bad("VOC: missing image", "voc", gone("JPEGImages/a.jpg"), ("a.xml", "image 'a' is missing")),
    Bad("VOC: no box", "voc", text(A, "<xmin>11</xmin>", ""), ("object 1", "<xmin> is ''")),
    Bad("VOC: no number", "voc", text(A, "<xmin>11<", "<xmin>ten<"), ("object 1", "<xmin> is 'ten'")),
    Bad("VOC: box outside", "voc", text(A, "<xmax>100<", "<xmax>120<"), ("object 2", "(0, 0, 120, 80)", "100×80")),
    Bad("VOC: zero box", "voc", text(A, "<xmax>50<", "<xmax>10<"), ("object 1", "(10, 20, 10, 60)", "no area")),
    Bad("VOC: inverted box", "voc", text(A, "<xmax>50<", "<xmax>4<"), ("object 1", "inside out")),
    Bad("VOC: NaN box", "voc", text(A, "<xmax>50<", "<xmax>nan<"), ("object 1", "not finite")),
    Bad("VOC: infinite box", "voc", text(A, "<xmax>50<", "<xmax>1e999<"), ("object 1", "not finite")),
    Bad("VOC: odd flag", "voc", text(A, "<difficult>1<", "<difficult>7<"), ("object 1", "<difficult> is '7'")),
    Bad("VOC: listed twice", "voc", whole(f"{MAIN}/train.txt", b"a\nb\na\n"), ("train.txt", "'a' is listed 2 times")),
    Bad("VOC: list of bytes", "voc", whole(f"{MAIN}/train.txt", b"\xff\xfe\x00"), ("train.txt", "not UTF-8")),
    Bad("VOC: class not listed", "voc", whole("classes.txt", b"cat\ndogs\n"), ("'dog'", "did you mean 'dogs'")),
    Bad("VOC: truncated image", "voc", cut("JPEGImages/a.jpg"), ("a.jpg", "damaged or cut short")),
    Bad("VOC: empty image", "voc", whole("JPEGImages/a.jpg", b""), ("a.jpg", "empty file of 0 bytes")),
    Bad("VOC: text as image", "voc", whole("JPEGImages/a.jpg", b"hello"), ("a.jpg", "not an image")),
    Bad("COCO: broken JSON", "coco", cut(TRAIN), ("instances_train.json", "not sound JSON")),
    Bad("COCO: no JSON object", "coco", whole(TRAIN, b"[]"), ("instances_train.json", "lacks COCO's list 'images'")),
    Bad("COCO: image id twice", "coco", entry("images", 1, id=97), ("image id 97 is given twice", "b.jpg")),
    Bad("COCO: file twice", "coco", entry("images", 1, file_name="a.jpg"), ("'a.jpg' is listed twice",)),
    Bad("COCO: annotation id twice", "coco", entry("annotations", 1, id=100), ("annotation id 100 is given twice",)),
    Bad("COCO: unknown image", "coco", entry("annotations", 1, image_id=5), ("annotation 101", "unknown image id 5")),
    Bad("COCO: unknown category", "coco", entry("annotations", 1, category_id=8), ("annotation 101", "id 8", "7, 9")),
    Bad("COCO: category twice", "coco", entry("categories", 1, id=9), ("category id 9 is given twice",)),
    Bad("COCO: class twice", "coco", entry("categories", 1, name="dog"), ("two categories are named 'dog'",)),
    Bad("COCO: three numbers", "coco", entry("annotations", 0, bbox=[1, 2, 3]), ("annotation 100", "four numbers")),
    Bad("COCO: NaN box", "coco", entry("annotations", 0, bbox=[1, 2, float("nan"), 4]), ("100", "not finite")),
    Bad("COCO: zero box", "coco", entry("annotations", 0, bbox=[1, 2, 0, 4]), ("annotation 100", "no area")),
    Bad("COCO: negative box", "coco", entry("annotations", 0, bbox=[9, 9, -3, 4]), ("annotation 100", "inside out")),
    Bad("COCO: box outside", "coco", entry("annotations", 0, bbox=[90, 2, 30, 4]), ("annotation 100", "outside")),
    Bad("COCO: no mask", "coco", entry("annotations", 0, segmentation="mask"), ("annotation 100", "segmentation")),
    Bad("COCO: missing image", "coco", gone("images/a.jpg"), ("image 'a.jpg' is missing", "looked in")),
    Bad("YOLO: no names", "yolo", text("data.yaml", "names: [cat, dog]", ""), ("data.yaml", "no 'names'")),
    Bad("YOLO: broken YAML", "yolo", text("data.yaml", "[cat, dog]", "[cat, dog"), ("data.yaml", "not sound YAML")),
    Bad("YOLO: wrong count", "yolo", text("data.yaml", "names", "nc: 3\nnames"), ("'nc: 3'", "2 names")),
    Bad("YOLO: no folder", "yolo", text("data.yaml", "images/train", "images/trian"), ("images/trian", "not exist")),
    Bad("YOLO: six columns", "yolo", whole("labels/train/a.txt", b"0 .5 .5 .1 .1 .9"), ("line 1", "6 columns")),
    Bad("YOLO: four columns", "yolo", whole("labels/train/a.txt", b"0 .5 .5 .1"), ("line 1", "4 columns")),
    Bad("YOLO: class out of range", "yolo", whole("labels/train/a.txt", b"2 .5 .5 .1 .1"), ("class 2", "0 … 1")),
    Bad("YOLO: class 1.5", "yolo", whole("labels/train/a.txt", b"1.5 .5 .5 .1 .1"), ("class 1.5",)),
    Bad("YOLO: a word", "yolo", whole("labels/train/a.txt", b"0 .5 .5 .1 wide"), ("line 1", "'wide' is not a number")),
    Bad("YOLO: box outside", "yolo", whole("labels/train/a.txt", b"0 .5 .5 1.1 .1"), ("line 1", "outside")),
    Bad("YOLO: zero box", "yolo", whole("labels/train/a.txt", b"0 .5 .5 0 .1"), ("line 1", "no area")),
    Bad("YOLO: NaN box", "yolo", whole("labels/train/a.txt", b"0 nan .5 .1 .1"), ("line 1", "not finite")),
    Bad("YOLO: empty image", "yolo", whole("images/train/a.jpg", b""), ("a.jpg", "empty file")),
    Bad("YOLO: broken facts", "yolo", whole("rcnn.json", b"[1]"), ("rcnn.json", "must map label files")),
]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command line is refused, exit code 2."""
    capsys.readouterr()
    assert cli.main([*arguments, "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1, told
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_faulty_data_set_is_refused_in_one_sentence(make, capsys, tmp_path, bad):
    root = make(bad.form)
    bad.spoil(root)
    pictures = tmp_path / "pictures"
    told = refused(capsys, "data", "info", str(root), "--out", str(pictures))
    for word in bad.words:
        assert word in told
    assert not pictures.exists() or not [path for path in pictures.iterdir() if ".part" in path.name]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_check_lists_the_same_fault_and_fails(make, capsys, bad):
    root = make(bad.form)
    bad.spoil(root)
    capsys.readouterr()
    assert cli.main(["data", "check", str(root), "--quiet"]) == 1
    told = capsys.readouterr()
    assert told.err == ""
    for word in bad.words:
        assert word in told.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "info", "{root}/../vco"], ("does not exist", "/voc'?")),
        (["data", "info", "{root}/../empty"], ("is an empty folder",)),
        (["data", "info", "{root}/ImageSets"], ("is none of", "Annotations", "data.yaml")),
        (["data", "info", "{root}", "--split", "tran"], ("no split 'tran'", "did you mean 'train'")),
        (["data", "convert", "{root}", "--to", "yoyo", "--out", "{root}/../o"], ("no format 'yoyo'", "'yolo'")),
        (["data", "convert", "{root}", "--to", "yolo", "--out", "{root}"], ("is not empty",)),
        (["data", "convert", "{root}", "--to", "yolo", "--out", "{root}/classes"], ("is a file",)),
        (["data", "convert", "{root}", "--to", "yolo", "--out", "{root}/../file/x"], ("file where a folder",)),
        (["data", "convert", "{root}", "--to", "yolo", "--out", "{root}/x"], ("lies inside the data set",)),
        (["data", "convert", "{root}", "--to", "yolo", "--out", "/proc/nowhere/x"], ("/proc",)),
        (["data", "info", "{root}", "--json", "{root}/classes/x.json"], ("file where a folder",)),
    ],
)
def test_a_faulty_call_is_refused_in_one_sentence(make, capsys, arguments, words):
    root = make("voc")
    (root / "classes").write_text("x")
    (root.parent / "file").write_text("x")
    (root.parent / "empty").mkdir()
    told = refused(capsys, *(argument.format(root=root) for argument in arguments))
    for word in words:
        assert word in told
    assert not [path for path in root.parent.rglob("*") if ".part" in path.name]


def test_a_folder_without_rights_is_refused(make, capsys, monkeypatch):
    root = make("voc")

    def denied(path, *_args, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    told = refused(capsys, "data", "convert", str(root), "--to", "coco", "--out", str(root.parent / "out"))
    assert "no permission" in told


def test_an_empty_split_is_refused(make, capsys):
    root = make("voc")
    (root / MAIN / "val.txt").write_text("")
    assert "split 'val'" in refused(capsys, "data", "info", str(root), "--split", "val")
