"""From a file of another toolkit to detections, by the commands that people type."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import rcnn
from rcnn.backbones import vgg, zf
from rcnn.cli import main


@pytest.fixture
def small_zf(monkeypatch):
    """ZF with an fc6 of 8 outputs, so that its file takes megabytes in the place of hundreds."""

    def head(channels, width):
        layers = zf.OrderedDict(
            fc6=nn.Linear(channels * 36, 8), relu6=nn.ReLU(), fc7=nn.Linear(8, width), relu7=nn.ReLU()
        )
        return vgg.FullyConnected(layers)

    monkeypatch.setattr(zf, "caffe_head", head)


@pytest.fixture
def caffemodel(small_zf, wire, tmp_path):
    """A Faster R-CNN of two classes on ZF as Caffe wrote it."""
    shapes = {"conv1": (96, 3, 7, 7), "conv2": (256, 96, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 384, 3, 3)}
    shapes |= {"conv5": (256, 384, 3, 3), "fc6": (8, 256 * 36), "fc7": (4096, 8), "cls_score": (3, 4096)}
    shapes |= {"bbox_pred": (12, 4096), "rpn_conv1": (16, 256, 3, 3)}
    shapes |= {"rpn_cls_score": (18, 16, 1, 1), "rpn_bbox_pred": (36, 16, 1, 1)}
    rng = torch.Generator().manual_seed(0)
    layers = {
        name: [torch.randn(shape, generator=rng) / np.prod(shape[1:]) ** 0.5, torch.zeros(shape[0])]
        for name, shape in shapes.items()
    }
    path = tmp_path / "ZF_faster_rcnn_final.caffemodel"
    path.write_bytes(wire.net(layers))
    return path


def test_a_caffemodel_becomes_a_folder_that_predicts(caffemodel, picture, tmp_path, capsys):
    names, out = tmp_path / "names.txt", tmp_path / "model"
    names.write_text("cat\ndog\n")
    assert main(["import", "caffe", str(caffemodel), "--classes", str(names), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "faster-rcnn/zf, 2 classes" in told
    assert "model.rpn.inclusive = True" in told
    model = rcnn.load(out, device="cpu")
    assert model.classes == ("cat", "dog")
    assert model.options.anchors.rounding == "caffe"
    found = model.predict(picture(96, 128), score=0.0)[0]
    assert len(found) > 0
    about = json.loads((out / "model.json").read_text())["about"]["imported"]
    assert about["from"] == "caffe"


@pytest.mark.parametrize(
    ("toolkit", "file", "content", "message"),
    [
        ("caffe", "net.caffemodel", b"nothing of the kind", "no caffemodel"),
        ("detectron2", "model.pkl", pickle.dumps({"model": print}), "would import 'builtins.print'"),
        (
            "detectron2",
            "model.pkl",
            pickle.dumps({"model": {"x": np.zeros(2, "f4")}}),
            "no keys of a Detectron2 detector",
        ),
    ],
)
def test_what_is_refused_leaves_nothing_behind(toolkit, file, content, message, tmp_path, capsys):
    path, out = tmp_path / file, tmp_path / "model"
    path.write_bytes(content)
    assert main(["import", toolkit, str(path), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not out.exists()
