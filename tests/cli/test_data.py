"""`rcnn data` from a user's seat: what is printed, written and returned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A COCO folder of four images, each with one mouse, named as the user would name it: "mice"."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mice" / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(4):
        Image.fromarray(np.full((48, 64, 3), i * 60, np.uint8)).save(tmp_path / "mice" / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [i, 2, 12, 12], "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "mouse"}]}
    (tmp_path / "mice" / "all.json").write_text(json.dumps(content))
    return tmp_path


def test_info_prints_counts_classes_and_advice(folder, capsys):
    assert cli.main(["data", "info", "mice"]) == 0
    told = capsys.readouterr().out
    assert "mice: COCO, split all" in told
    assert "4 images (0 without objects), 4 objects" in told
    assert "mouse" in told
    assert "smaller than 12 px: use an FPN backbone, `--image-size" in told


def test_info_says_what_stands_in_for_val(folder, capsys):
    assert cli.main(["data", "info", "mice", "--split", "val"]) == 0
    assert "There is no val split: every fifth image" in capsys.readouterr().out


def test_info_writes_json_and_pictures(folder):
    assert cli.main(["data", "info", "mice", "--json", "info.json", "--out", "pictures"]) == 0
    assert json.loads((folder / "info.json").read_text())["classes"] == {"mouse": {"objects": 4, "images": 4}}
    pictures = sorted((folder / "pictures").iterdir())
    assert [path.name for path in pictures] == ["01_0.jpg", "02_1.jpg", "03_2.jpg", "04_3.jpg"]
    assert np.asarray(Image.open(pictures[0])).max() > 60  # the image is black, its box is not


def test_json_on_standard_output_is_nothing_but_json(folder, capsys):
    for command, code in (("info", 0), ("check", 0)):
        assert cli.main(["data", command, "mice", "--json", "-", "--quiet"]) == code
        assert json.loads(capsys.readouterr().out)["images"] == 4


def test_check_fails_with_every_problem(folder, capsys):
    (folder / "mice" / "images" / "1.png").write_bytes(b"")
    (folder / "mice" / "images" / "2.png").write_bytes(b"no image")
    assert cli.main(["data", "check", "mice", "--json", "problems.json", "--quiet"]) == 1
    told = capsys.readouterr().out
    assert "1.png' is an empty file" in told
    assert "2.png' is not an image" in told
    assert told.endswith("4 images, 4 objects: 2 problems\n")
    problems = json.loads((folder / "problems.json").read_text())["problems"]
    assert [set(problem) for problem in problems] == [{"file", "what", "fix"}] * 2


@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_convert_writes_what_check_finds_sound(folder, capsys, form):
    assert cli.main(["data", "convert", "mice", "--to", form, "--out", "new", "--quiet"]) == 0
    assert cli.main(["data", "check", "new", "--quiet"]) == 0
    assert "4 images, 4 objects: no problems" in capsys.readouterr().out


def test_without_a_sub_command_its_help_is_printed(capsys):
    assert cli.main(["data"]) == 0
    captured = capsys.readouterr()
    for name in ("info", "check", "convert"):
        assert name in captured.out
    assert captured.err == ""


def test_a_slip_in_the_name_of_the_digits_is_understood(folder, capsys):
    assert cli.main(["data", "info", "digit"]) == 2
    assert "data 'digit' does not exist; did you mean 'digits'?" in capsys.readouterr().err
    assert cli.main(["data", "info", "mcie"]) == 2
    assert "did you mean 'mice'?" in capsys.readouterr().err
    assert cli.main(["data", "info", "elsewhere"]) == 2
    assert "'.' holds mice" in capsys.readouterr().err, "what lies here, and nothing else"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_a_place_that_cannot_be_written_is_named_as_the_user_did(folder, capsys):
    for out in ("/proc/mice", "/proc/deeper/mice"):
        assert cli.main(["data", "convert", "mice", "--to", "voc", "--out", out]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: '{out}' cannot be written there")
        assert ".part" not in told
