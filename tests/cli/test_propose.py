"""`rcnn propose` from images and data sets to boxes, pictures, figures and a plot."""

import json

import numpy as np
import pytest
from PIL import Image

import rcnn
from rcnn.cli import main
from rcnn.proposals import FileRegions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photo(tmp_path):
    """A picture file of two squares."""
    pixels = np.full((60, 90, 3), 200, np.uint8)
    pixels[10:40, 10:40], pixels[25:55, 50:80] = (220, 30, 30), (30, 60, 220)
    pixels = np.clip(pixels + np.random.default_rng(0).integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def digits(monkeypatch):
    """The embedded data set cut to its first eight images."""
    from rcnn.data import Dataset

    monkeypatch.setattr(Dataset, "__len__", lambda self: 8)


def test_an_image_gives_boxes_and_a_picture(photo, tmp_path, capsys):
    assert main(["propose", str(photo), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "p.json")]) == 0
    (entry,) = json.loads((tmp_path / "p.json").read_text())
    assert (entry["image"], entry["width"], entry["height"]) == (str(photo), 90, 60)
    assert entry["boxes"] == rcnn.propose(photo).boxes.tolist()
    assert Image.open(tmp_path / "out" / "photo.png").size == (90, 60)
    assert f"{photo}: {len(entry['boxes'])} regions" in capsys.readouterr().out


def test_python_finds_what_the_command_finds(photo):
    pixels = np.array(Image.open(photo))
    for image in (photo, str(photo), Image.open(photo), pixels):
        found = rcnn.propose(image, mode="single", min_side=0, count=9)
        assert found.boxes.shape == (9, 4)
        np.testing.assert_array_equal(found.boxes, rcnn.propose(pixels, mode="single", min_side=0).boxes[:9])
    assert found.image == ""
    assert found.to_dict()["width"] == 90


def test_a_data_set_is_judged_plotted_and_written(tmp_path, capsys, digits):
    words = ["propose", "--data", "digits", "--split", "val", "--mode", "single", "--eval", "--out", str(tmp_path)]
    assert main([*words, "--json", str(tmp_path / "figures.json")]) == 0
    printed = capsys.readouterr()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["images"] == 8
    assert figures["split"] == "val"
    assert len(figures["counts"]) == len(figures["mabo"]) == len(figures["recall"]["0.5"])
    assert figures["recall"]["0.5"] == sorted(figures["recall"]["0.5"])
    assert figures["recall"]["0.5"][-1] > 0.5
    assert f"{figures['mabo'][-1]:.3f}" in printed.out
    assert Image.open(tmp_path / "recall.png").size[0] > 400
    dataset = rcnn.open_dataset("digits", "val")
    regions = FileRegions(tmp_path / "regions.npz", dataset)
    assert max(len(regions(dataset, index)) for index in range(8)) == figures["counts"][-1]


def test_what_was_found_is_not_searched_again(tmp_path, capsys, digits, monkeypatch):
    from rcnn.proposals import SelectiveSearch

    words = ["propose", "--data", "digits", "--split", "val", "--mode", "single", "--json", str(tmp_path / "p.json")]
    assert main(words) == 0
    before = (tmp_path / "p.json").read_text()
    monkeypatch.setattr(SelectiveSearch, "search", lambda self, pixels: pytest.fail("searched"))
    assert main([*words, "--quiet"]) == 0
    assert (tmp_path / "p.json").read_text() == before
    assert len(json.loads(before)) == 8


def test_ctrl_c_keeps_what_was_found_and_says_so(tmp_path, capsys, digits, monkeypatch):
    from rcnn.proposals import SelectiveSearch

    search, calls = SelectiveSearch.search, []

    def interrupted(self, pixels):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return search(self, pixels)

    monkeypatch.setattr(SelectiveSearch, "search", interrupted)
    words = ["propose", "--data", "digits", "--split", "val", "--mode", "single", "--json", str(tmp_path / "p.json")]
    assert main(words) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    done = len(list((tmp_path / "cache").rglob("*.boxes")))
    assert 3 <= done < 8
    assert not (tmp_path / "p.json").exists()
    before = len(calls)
    assert main(words) == 0
    assert len(calls) - before == 8 - done


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give either images or --data"),
        (["PHOTO", "--data", "digits"], "give either images or --data"),
        (["PHOTO", "--eval"], "--eval needs a data set"),
        (["PHOTO", "--split", "val"], "--split needs a data set"),
        (["nowhere.jpg"], "image 'nowhere.jpg' does not exist"),
        (["PHOTO", "--mode", "qualty"], "did you mean 'quality'"),
        (["PHOTO", "--method", "selectve-search"], "did you mean 'selective-search'"),
        (["--data", "digits", "--split", "vla"], "did you mean 'val'"),
        (["--data", "nowhere"], "'nowhere'"),
        (["PHOTO", "--count", "0"], "count"),
    ],
)
def test_wrong_calls_are_one_sentence(photo, capsys, words, sentence):
    assert main(["propose", *(str(photo) if word == "PHOTO" else word for word in words)]) == 2
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1


def test_a_picture_is_never_drawn_over_its_image(photo, capsys):
    before = photo.read_bytes()
    assert main(["propose", str(photo), "--out", str(photo.parent)]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_a_models_own_network_proposes(photo, tmp_path, capsys):
    settings = {
        "backbone": {"channels": 16},
        "anchors": {"sizes": [[16.0], [24.0], [32.0], [48.0], [64.0]]},
        "box": {"hidden": [16]},
        "rpn": {"pre_nms": [60, 40], "post_nms": [60, 40]},
        "image_size": [64, 96],
    }
    model = rcnn.create("faster-rcnn/resnet18-fpn", ["a"], settings=settings)
    rcnn.save(model, tmp_path / "model")
    found = rcnn.propose(photo, method=str(tmp_path / "model"))
    assert 0 < len(found.boxes) <= 40
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 60, 90, 60]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    words = ["propose", str(photo), "--method", str(tmp_path / "model"), "--count", "5", "--json", "-"]
    assert main(words) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(entry["boxes"], found.boxes[:5], atol=0.006)


def test_keys_of_models_tell_their_weights_apart(tmp_path):
    from rcnn.detectors.proposing import region_method

    keys = set()
    for name in ("one", "two"):
        model = rcnn.create("faster-rcnn/resnet18-fpn", ["a"], settings={"backbone": {"channels": 16}})
        rcnn.save(model, tmp_path / name)
        keys |= {region_method(tmp_path / name).key, region_method(tmp_path / name).key}
    assert len(keys) == 2
