"""The command line's contract for label maps, from a folder of them to palette PNGs, on a model of a few steps."""

import csv
import json
import tomllib

import numpy as np
import pytest
from PIL import Image

from rcnn.cli import main

SMALL = ["--image-size", "32,48", "--batch-size", "2", "--device", "cpu", "--workers", "0", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images with a red and a blue square each, and their label maps."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for k in range(6):
        split = "train" if k < 4 else "val"
        pixels, values = rng.integers(0, 80, (40, 60, 3), dtype=np.uint8), np.zeros((40, 60), np.uint8)
        for value, colour in ((1, (250, 30, 30)), (2, (30, 30, 250))):
            y, x = rng.integers(0, 20), rng.integers(0, 40)
            pixels[y : y + 20, x : x + 20], values[y : y + 20, x : x + 20] = colour, value
        for kind, picture in (("images", pixels), ("masks", values)):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / kind / split / f"{k}.png")
    (root / "classes.txt").write_text("red\nblue\n")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run folder of the two stages of FCN-16s, three steps each."""
    out = tmp_path_factory.mktemp("runs") / "staged"
    words = ["train", "fcn-16s/resnet18", "--scheme", "staged", "--data", str(folder), "--out", str(out)]
    assert main([*words, "--steps", "3", "--set", "train.checkpoint_every=0", *SMALL]) == 0
    return out


def test_a_run_keeps_the_model_of_the_best_mean_iou(run):
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    assert recipe["system"] == "fcn-16s/resnet18-skip"
    assert recipe["data"]["classes"] == ["red", "blue"]
    assert [stage["name"] for stage in recipe["stages"]] == ["pretrain", "32s", "16s"]
    assert "head.levels.16.*" not in recipe["stages"][1]["trains"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {"mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU", "val_loss", "loss_pixels"} <= set(rows[0])
    last = [float(row["mIoU"]) for row in rows if row["stage"] == "16s"]
    about = json.loads((run / "best" / "model.json").read_text())["about"]
    assert about["mIoU"] == pytest.approx(max(last), abs=1e-6)
    for name in ("losses", "confusion"):
        with Image.open(run / "plots" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    page = (run / "report.html").read_text()
    assert "Mean IoU" in page
    assert "data:image/jpeg;base64," in page


def test_eval_prints_the_four_figures_and_writes_them(run, folder, tmp_path, capsys):
    target = tmp_path / "figures.json"
    assert main(["eval", str(run), "--data", str(folder), "--json", str(target)]) == 0
    figures = json.loads(target.read_text())
    assert figures["protocol"] == "segmentation"
    assert (figures["split"], figures["images"]) == ("val", 2)
    assert set(figures["per_class"]) == {"red", "blue", "background"}
    about = json.loads((run / "best" / "model.json").read_text())["about"]
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU"):
        assert figures[name] == pytest.approx(about[name], abs=1e-6), "validation and eval judge alike"
    said = capsys.readouterr().out
    for words in ("mean IoU", "pixel accuracy", "mean accuracy", "frequency-weighted IoU", "background", "2 images"):
        assert words in said


def test_predict_writes_palette_pngs_and_overlays(run, folder, tmp_path):
    target, out = tmp_path / "found.json", tmp_path / "out"
    images = folder / "images" / "val"
    assert main(["predict", str(run), str(images), "--out", str(out), "--json", str(target), "--quiet"]) == 0
    entries = json.loads(target.read_text())
    assert [entry["image"] for entry in entries] == [str(images / "4.png"), str(images / "5.png")]
    for entry in entries:
        assert (entry["width"], entry["height"]) == (60, 40)
        found = entry["segmentation"]
        picture = Image.open(found["labels"])
        assert (picture.mode, picture.size) == ("P", (60, 40))
        values = np.asarray(picture)
        names = {0: "background", 1: "red", 2: "blue"}
        for value in np.unique(values).tolist():
            assert found["shares"][names[value]] == pytest.approx((values == value).mean(), abs=1e-4)
        assert Image.open(out / entry["image"].rsplit("/", 1)[1]).size == (60, 40)


def test_resume_ends_where_an_uninterrupted_run_ends(run, folder, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from rcnn.training.engine import Engine

    out, looks = tmp_path / "stopped", []
    look = Engine._look

    def stopping(self, *arguments):
        looks.append(0)
        if len(looks) == 5:  # in the second stage
            self.interrupt.requested = True
        look(self, *arguments)

    monkeypatch.setattr(Engine, "_look", stopping)
    words = ["train", "fcn-16s/resnet18", "--scheme", "staged", "--data", str(folder), "--out", str(out)]
    assert main([*words, "--steps", "3", "--set", "train.checkpoint_every=0", *SMALL]) == 130
    monkeypatch.undo()
    assert main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    one, other = load_file(run / "last" / "model.safetensors"), load_file(out / "last" / "model.safetensors")
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["eval", "RUN", "--data", "DATA", "--protocol", "coco"], "judged by 'segmentation', not by 'coco'"),
        (["eval", "RUN", "--data", "DATA", "--classes", "red"], "judged all together"),
        (["predict", "RUN", "DATA/images/val", "--score", "0.5"], "gives no scores; leave --score out"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "DATA", "--out", "OUT"], "has label maps but no boxes"),
        (["train", "fcn-8s/resnet18", "--scheme", "joint", "--data", "DATA"], "fcn-8s has no scheme 'joint'"),
        (["train", "fcn-8s/resnet18", "--data", "DATA", "--set", "model.head.loss=max"], "model.head.loss = 'max'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(run, folder, tmp_path, capsys, words, told):
    places = {"RUN": str(run), "DATA": str(folder), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in error
