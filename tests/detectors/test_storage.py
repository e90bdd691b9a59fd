import json

import numpy as np
import pytest
import torch

import rcnn
from rcnn.errors import UserError


def test_a_saved_model_predicts_the_same(tiny, tmp_path):
    model = tiny()
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    loaded = rcnn.load(rcnn.save(model, tmp_path / "model"))
    assert loaded.classes == model.classes
    assert loaded.options == model.options
    assert not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert np.array_equal(model.predict(image)[0].boxes, loaded.predict(image)[0].boxes)


def test_a_run_folder_means_its_best_model(tiny, tmp_path):
    rcnn.save(tiny(), tmp_path / "run" / "last")
    assert rcnn.detectors.find(tmp_path / "run").name == "last"
    rcnn.save(tiny(), tmp_path / "run" / "best")
    assert rcnn.detectors.find(tmp_path / "run").name == "best"


def break_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)


def cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def break_json(folder):
    (folder / "model.json").write_text("{")


def more_classes(folder):
    description = json.loads((folder / "model.json").read_text())
    description["classes"].append("horse")
    (folder / "model.json").write_text(json.dumps(description))


def new_format(folder):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "format": 99}))


def not_there(folder):
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_weights, "model.safetensors' is damaged"),
        (cut_weights, "model.safetensors' is damaged"),
        (break_json, "model.json' is not a model description"),
        (more_classes, "model.safetensors' does not fit its model.json: .* first 'box_head"),
        (new_format, "has model format 99; this version reads 1"),
        (not_there, "holds no model: expected model.safetensors and model.json"),
    ],
)
def test_a_damaged_model_is_refused_in_one_sentence(tiny, tmp_path, damage, sentence):
    folder = rcnn.save(tiny(), tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        rcnn.load(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_model_names_the_nearest(tiny, tmp_path):
    rcnn.save(tiny(), tmp_path / "cells")
    with pytest.raises(UserError, match="did you mean 'cells'"):
        rcnn.load(tmp_path / "cels")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("faster-rcn/resnet18-fpn", ["a"]), "unknown system 'faster-rcn'.*did you mean 'faster-rcnn'"),
        (("faster-rcnn", ["a"]), "names no backbone"),
        (("faster-rcnn/resnet19-fpn", ["a"]), "resnet18-fpn"),
        (("faster-rcnn/resnet18-fpn", []), "expected a list of different class names"),
        (("faster-rcnn/resnet18-fpn", ["a", "a"]), "expected a list of different class names"),
        (("faster-rcnn/resnet18-fpn", "cat"), "expected a list of different class names"),
    ],
)
def test_what_cannot_be_created_is_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        rcnn.create(*arguments)


def test_unknown_settings_recipes_and_devices_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"model\.rpn\.nsm"):
        tiny(rpn={"nsm": 0.5})
    with pytest.raises(UserError, match="unknown recipe 'clasic'; did you mean 'classic'"):
        tiny(recipe="clasic")
    folder = rcnn.save(tiny(), tmp_path)
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        rcnn.load(folder, device="gpu")
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        rcnn.load(folder, precision="fp8")
