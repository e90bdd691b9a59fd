"""`rcnn import` and `rcnn export` as commands, and results through `rcnn eval` and `rcnn predict`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import detection

import rcnn
from rcnn import cli

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of torchvision's with three classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(getattr(detection, NAME)(weights=None, weights_backbone=None, num_classes=4).state_dict(), path)
    return path


def test_a_file_becomes_a_model_that_predicts_and_goes_back(weights, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n\ncow\n")
    out = tmp_path / "model"
    words = ["import", "torchvision", str(weights), "--out", str(out), "--model", NAME, "--classes", str(names)]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    for line in ("faster-rcnn/mobilenetv3-fpn, 3 classes", "model.pool.aligned = False", f"the model is in {out}"):
        assert line in told
    model = rcnn.load(out)
    assert model.classes == ("cat", "dog", "cow")
    model.predict(np.zeros((40, 60, 3), np.uint8))

    assert cli.main(["export", str(out), "--format", "torchvision", "--out", str(tmp_path / "back.pth")]) == 0
    assert f"{NAME}(weights=None, weights_backbone=None, num_classes=4)" in capsys.readouterr().out
    back, wanted = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pth", weights))
    assert all(torch.equal(wanted[key], value) for key, value in back.items())

    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["torchvision", "FILE"], "fits fasterrcnn_mobilenet_v3_large_fpn and"),
        (["torchvison", "FILE"], "did you mean 'torchvision'"),
        (["torchvision", "nothing.pth"], "'nothing.pth' do not exist"),
        (["torchvision", "FILE", "--model", NAME, "--classes", "NAMES"], "names 'cat' twice"),
        (["torchvision", "FILE", "--model", NAME, "--classes", "nowhere.txt"], "'nowhere.txt' does not exist"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence_and_leaves_nothing(words, sentence, weights, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("cat\ncat\ncow\n")
    words = [{"FILE": str(weights), "NAMES": str(names)}.get(word, word) for word in words]
    assert cli.main(["import", *words, "--out", str(tmp_path / "model")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_results_of_any_program_are_judged(tmp_path, capsys):
    folder = tmp_path / "data"
    (folder / "annotations").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(folder / "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (tmp_path / "r.json").write_text(
        json.dumps([{"image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.5}])
    )
    assert cli.main(["eval", str(tmp_path / "r.json"), "--data", str(folder), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mAP"] == pytest.approx(1.0)
    assert told["split"] == "val"
    (tmp_path / "comp4_det_val_cat.txt").write_text("a 0.5 11 11 30 30\n")
    words = ["eval", str(tmp_path), "--data", str(folder), "--protocol", "voc12", "--json", "-"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["mAP"] == pytest.approx(1.0)


def test_predictions_are_written_as_coco_results(tmp_path):
    torch.manual_seed(0)
    settings = {"image_size": [64, 96], "backbone": {"channels": 8}, "box": {"hidden": [8], "score": 0.0}}
    rcnn.save(rcnn.create("faster-rcnn/resnet18-fpn", ["cat"], settings=settings), tmp_path / "model")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "0012.png")
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "0012.png"), "--coco", str(tmp_path / "r.json")]
    assert cli.main([*words, "--score", "0"]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())
    assert rows
    assert rows[0].keys() == {"image_id", "category_id", "bbox", "score"}
    assert {row["image_id"] for row in rows} == {12}
    assert not (tmp_path / "predictions").exists()


def test_training_goes_on_from_a_model_folder(tmp_path, capsys):
    settings = {"image_size": [64, 96], "backbone": {"channels": 8}, "box": {"hidden": [8], "samples": 16}}
    model = rcnn.create("faster-rcnn/resnet18-fpn", ["cat"], settings={**settings, "pool": {"aligned": False}})
    rcnn.save(model, tmp_path / "model")
    words = [
        "train",
        "faster-rcnn/resnet18-fpn",
        "--data",
        "digits",
        "--weights",
        str(tmp_path / "model"),
        "--steps",
        "1",
    ]
    words += [
        "--batch-size",
        "1",
        "--image-size",
        "64,96",
        "--out",
        str(tmp_path / "run"),
        "--set",
        "train.eval_every=0",
    ]
    assert cli.main([*words, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "start anew" in told.out + told.err
