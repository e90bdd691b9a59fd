"""The command line's contract from data to detections, on a model and data so small that it takes seconds."""

import json
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_0

from rcnn.cli import main

XML = """<annotation><filename>{name}.png</filename><size><width>96</width><height>64</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>
<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""
TINY = [
    "model.backbone.channels=16",
    "model.anchors.sizes=[[16.0],[24.0],[32.0],[48.0],[64.0]]",
    "model.box.hidden=[16]",
    "model.box.samples=16",
    "model.rpn.pre_nms=[60,40]",
    "model.rpn.post_nms=[60,40]",
]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """A VOC folder of six images with squares of two colours, and one image without any."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [f"im{i}" for i in range(7)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 80, (64, 96, 3), dtype=np.uint8)
        objects = []
        for label, colour in (("red", (250, 30, 30)), ("blue", (30, 30, 250))) if i else ():
            x, y = int(rng.integers(0, 60)), int(rng.integers(0, 30))
            pixels[y : y + 30, x : x + 30] = colour
            objects.append(OBJECT.format(label=label, x1=x + 1, y1=y + 1, x2=x + 30, y2=y + 30))
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name=name, objects="".join(objects)))
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names[:5]))
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names[5:]))
    return root


@pytest.fixture(scope="module")
def run(voc, tmp_path_factory):
    """A run folder of three steps."""
    out = tmp_path_factory.mktemp("runs") / "squares"
    words = ["train", "faster-rcnn/resnet18-fpn", "--data", str(voc), "--out", str(out), "--steps", "3"]
    words += ["--batch-size", "2", "--image-size", "64,96", "--device", "cpu", "--workers", "auto", "--quiet"]
    assert main([*words, *(word for setting in TINY for word in ("--set", setting))]) == 0
    return out


def test_a_run_folder_holds_what_the_design_says(run):
    for name in ("recipe.toml", "metrics.csv", "log.jsonl", "best", "last", "state", "report.html", "plots"):
        assert (run / name).exists(), name
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    assert recipe["system"] == "faster-rcnn/resnet18-fpn"
    assert recipe["data"]["classes"] == ["blue", "red"]
    assert recipe["model"]["backbone"]["norm"] == "group", "a random start trains with a norm that can"
    assert [stage["name"] for stage in recipe["stages"]] == ["joint"]
    assert recipe["stages"][0]["steps"] == 3


def test_eval_writes_fractions_by_a_named_protocol(run, voc, tmp_path, capsys):
    target = tmp_path / "figures.json"
    assert main(["eval", str(run), "--data", str(voc), "--split", "val", "--json", str(target)]) == 0
    figures = json.loads(target.read_text())
    assert figures["protocol"] == "coco"
    assert figures["split"] == "val"
    assert figures["images"] == 2
    assert 0 <= figures["mAP"] <= figures["AP50"] <= 1
    assert set(figures["per_class"]) == {"red", "blue"}
    assert "coco, 2 images" in capsys.readouterr().out


def test_a_dry_run_names_no_run_folder_since_it_makes_none(voc, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "faster-rcnn/resnet18-fpn", "--data", str(voc), "--dry-run", "--image-size", "64,96"]
    assert main([*words, *(word for setting in TINY for word in ("--set", setting))]) == 0
    captured = capsys.readouterr()
    assert "nothing was written" in captured.out + captured.err
    assert "run folder" not in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("protocol", ["voc07", "voc12"])
def test_eval_speaks_vocs_protocols_and_subsets_of_classes(run, voc, capsys, protocol):
    words = ["eval", str(run), "--data", str(voc), "--protocol", protocol, "--classes", "red", "--json", "-", "--quiet"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["protocol"] == protocol
    assert set(figures["per_class"]) == {"red"}


def test_predict_writes_a_list_with_one_entry_an_image(run, voc, tmp_path):
    target, pictures = tmp_path / "found.json", tmp_path / "pictures"
    words = ["predict", str(run), str(voc / "JPEGImages"), "--json", str(target), "--out", str(pictures)]
    assert main([*words, "--score", "0.01"]) == 0
    entries = json.loads(target.read_text())
    assert [entry["image"] for entry in entries] == sorted(str(p) for p in (voc / "JPEGImages").iterdir())
    assert all((entry["width"], entry["height"]) == (96, 64) for entry in entries)
    assert len(list(pictures.iterdir())) == 7
    detections = [found for entry in entries for found in entry["detections"]]
    assert detections, "three steps do not teach, but at this score something is always found"
    for found in detections:
        assert set(found) == {"box", "score", "label", "class_id"}
        assert found["label"] == ["blue", "red"][found["class_id"]]
        assert 0 <= found["box"][0] < found["box"][2] <= 96
        assert 0 <= found["box"][1] < found["box"][3] <= 64
        assert 0.01 <= found["score"] <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["eval", "{run}", "--data", "{voc}", "--classes", "green"], "does not know the class 'green'"),
        (["eval", "{run}", "--data", "{voc}", "--classes", ","], "--classes ',': expected names"),
        (["eval", "{run}", "--data", "{voc}", "--json", "{voc}"], "is a folder where a file was expected"),
        (["predict", "{run}", "{voc}/JPEGImages", "--json", "{voc}"], "is a folder where a file was expected"),
        (["predict", "{run}", "{voc}/JPEGImages", "--coco", "{voc}"], "is a folder where a file was expected"),
        (["eval", "{run}", "--data", "digits"], "the model's class 'blue' is not in the data"),
        (["eval", "{run}", "--data", "{voc}", "--split", "tset"], "has no split 'tset'"),
        (["eval", "{run}", "--data", "{voc}", "--protocol", "voc"], "there is no protocol 'voc'; did you mean 'voc"),
        (["eval", "{run}x", "--data", "{voc}"], "does not exist; did you mean 'squares'?"),
        (["eval", "{run}", "--data", "{voc}x"], "does not exist"),
        (["predict", "{run}", "nothing.jpg"], "image 'nothing.jpg' does not exist"),
        (["predict", "{run}", "{voc}/Annotations"], "holds no images"),
        (["predict", "{run}", "{voc}/Annotations/im1.xml"], "im1.xml"),
        (["predict", "{run}", "{voc}/JPEGImages/im1.png", "--score", "2"], "--score"),
        (["predict", "{run}", "{voc}/JPEGImages/im1.png", "--device", "gpu"], "unknown device 'gpu'"),
        (["predict", "{run}", "{voc}/JPEGImages/im1.png", "--precision", "bf17"], "did you mean 'bf16'?"),
        (["predict", "{run}", "{voc}/JPEGImages/im1.png", "--out", "{voc}/JPEGImages/im1.png"], "is a file where"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--out", "{run}"], "--resume"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--classes", "rde"], "did you mean 'red'?"),
        (["train", "faster-rcn/resnet18-fpn", "--data", "{voc}"], "did you mean 'faster-rcnn'?"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--set", "model.rpn.nsm=1"], "did you mean 'nms'?"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--weights", "no.pth"], "no.pth"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--weights", "{voc}/Annotations/im1.xml"], "im1.xml"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--image-size", "big"], "--image-size big"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--set", "rpn.nms=1"], "mean 'model.rpn.nms'?"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--workers", "atuo"], "train.workers = 'atuo'"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--workers", "-1"], "train.workers = '-1'"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--scheme", "jiont"], "jiont"),
        (["train", "faster-rcnn/resnet18-fpn", "--data", "{voc}", "--epochs", "1", "--steps", "1"], "epochs"),
        (["train", "faster-rcnn/resnet18-fpn"], "data"),
        (["trian"], "did you mean 'train'?"),
    ],
)
def test_what_the_user_got_wrong_is_one_sentence_and_exit_2(run, voc, capsys, monkeypatch, tmp_path, words, sentence):
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in run.rglob("*"))
    code = main([word.format(run=run, voc=voc) for word in words])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2, error
    assert sentence in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert sorted(p for p in run.rglob("*")) == before, "nothing half-written"
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.parametrize("system", ["rcnn/squeezenet", "sppnet/squeezenet", "fast-rcnn/squeezenet"])
def test_systems_on_regions_start_from_weights_with_a_plan(system, voc, tmp_path, capsys):
    weights = tmp_path / "squeezenet.pth"
    torch.save(squeezenet1_0(weights=None).state_dict(), weights)
    words = ["train", system, "--data", str(voc), "--weights", str(weights), "--image-size", "96,128", "--dry-run"]
    assert main([*words, "--set", "model.regions.mode=single", "--set", "model.regions.min_side=4"]) == 0
    said = "".join(capsys.readouterr())
    assert "propose" in said
    assert "dry run" in said
