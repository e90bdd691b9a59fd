"""Models that start from trained ones."""

from __future__ import annotations

import pytest
import torch

import rcnn
from rcnn.detectors.starting import is_model, start_from
from rcnn.errors import UserError


@pytest.fixture
def folder(tiny, tmp_path):
    """A saved model of cat, dog and cow with an option of its own."""
    model = tiny(pool={"aligned": False})
    rcnn.save(model, tmp_path / "model")
    return tmp_path / "model"


def test_with_its_classes_a_start_is_the_model_itself(folder):
    trained = rcnn.load(folder, device="cpu")
    model, anew = start_from(folder, "faster-rcnn/resnet18-fpn", trained.classes, {"box": {"nms": 0.25}})
    assert anew == []
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in trained.state_dict().items())
    assert model.options.pool.aligned is False
    assert model.options.box.nms == 0.25
    assert model.options.box.samples == trained.options.box.samples


@pytest.mark.parametrize("classes", [("bird",), ("dog", "cat", "cow"), ("a", "b", "c")])
def test_of_other_classes_the_last_layers_start_anew(folder, classes):
    trained = rcnn.load(folder, device="cpu").state_dict()
    model, anew = start_from(folder, "faster-rcnn/resnet18", classes)
    assert model.classes == classes
    assert {key.rpartition(".")[0] for key in anew} == {"box_head.cls_score", "box_head.bbox_pred"}
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in trained.items() if key not in anew)
    assert not any(torch.equal(trained[key], own[key]) for key in anew if key.endswith("weight"))


def test_another_system_is_refused_and_a_file_is_no_model(folder):
    with pytest.raises(UserError, match="holds a faster-rcnn/resnet18-fpn, so a rfcn/resnet18-c5 cannot"):
        start_from(folder, "rfcn/resnet18", ["a"])
    assert is_model(folder)
    assert not is_model(folder / "model.json")
    assert not is_model(folder.parent)
    assert not is_model(None)
