"""What goes out to torchvision, and what is refused; the round trip is in tests/interop/test_torchvision.py."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection

import rcnn
from rcnn.errors import UserError
from rcnn.interop.torchvision import MODELS, merged

NAME = "fasterrcnn_mobilenet_v3_large_fpn"


def model_of(name=NAME, classes=("a", "b"), **changes):
    return rcnn.create(MODELS[name].system, classes, settings=merged(MODELS[name].settings, changes))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_both_kinds_of_file_hold_the_state_dict(suffix, tmp_path):
    from rcnn.backbones.weights import read

    path = tmp_path / f"model{suffix}"
    rcnn.export(model_of(), "torchvision", path)
    with torch.device("meta"):
        theirs = getattr(detection, NAME)(weights=None, weights_backbone=None, num_classes=3)
    theirs.load_state_dict(read(path), strict=True, assign=True)


def test_what_the_constructor_can_be_told_is_said_as_its_arguments(tmp_path):
    changes = {"image_size": (320, 640), "box": {"nms": 0.3}, "rpn": {"post_nms": (1500, 150)}}
    note = rcnn.export(model_of(**changes), "torchvision", tmp_path / "a.pth")[0]
    for argument in (
        "num_classes=3",
        "min_size=320, max_size=640",
        "box_nms_thresh=0.3",
        "rpn_post_nms_top_n_train=1500, rpn_post_nms_top_n_test=150",
    ):
        assert argument in note
    assert "rpn_nms_thresh" not in note


def test_eps_and_what_torchvision_has_its_own_way_of_are_said(tmp_path):
    model = model_of(backbone={"eps": 0.0}, resize="antialias")
    notes = rcnn.export(model, "torchvision", tmp_path / "a.pth")
    assert "eps = 0.0" in notes[1]
    assert "model.resize" in notes[2]


def test_without_a_slot_for_the_background_it_gets_zeros(tmp_path):
    model = model_of(box={"background_slot": False})
    rcnn.export(model, "torchvision", tmp_path / "a.pth")
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    weight = state["roi_heads.box_predictor.bbox_pred.weight"]
    assert not weight[:4].any()
    assert torch.equal(weight[4:], model.box_head.bbox_pred.weight)
    assert torch.equal(state["roi_heads.box_predictor.cls_score.bias"][1:], model.box_head.cls_score.bias[:2])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: rcnn.create("faster-rcnn/resnet18-fpn", ["a"]), "no constructor for a faster-rcnn/resnet18-fpn"),
        (lambda: rcnn.create(MODELS[NAME].system, ["a"]), "norm = 'group'"),
        (lambda: model_of(anchors={"centre": 0.5}), r"model\.anchors\.centre = 0\.0, and this model has 0\.5"),
        (lambda: model_of(pool={"aligned": True}, rpn={"objectness": "softmax"}), "and so with 1 more settings"),
    ],
)
def test_models_that_torchvision_cannot_run_are_refused_and_nothing_is_written(model, words, tmp_path):
    with pytest.raises(UserError, match=words):
        rcnn.export(model(), "torchvision", tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_formats_and_suffixes_are_known(tmp_path):
    with pytest.raises(UserError, match="did you mean 'torchvision'"):
        rcnn.export("nowhere", "torchvison", tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"written as \.pth or \.pt or \.safetensors"):
        rcnn.export("nowhere", "torchvision", tmp_path / "a.onnx")


def test_export_is_a_function_and_a_folder_whichever_is_imported_first():
    import rcnn.export.torchvision as inside

    assert callable(rcnn.export)
    assert rcnn.export.EXPORTERS["torchvision"].module == inside.__name__
