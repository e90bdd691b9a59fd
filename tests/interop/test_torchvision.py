"""Imported torchvision detectors find what torchvision finds, learn from the same losses, and go back unchanged.

The fast tests shrink the images on both sides; the slow one runs all six constructors on photos at their own size.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from peers import calibrated
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES

import rcnn
from rcnn.backbones import weights
from rcnn.data import Truth, resize
from rcnn.data.collate import collate
from rcnn.data.segments import Frame, run_lengths
from rcnn.data.transforms import resize_truth
from rcnn.errors import UserError
from rcnn.interop import Asked, built, read, torchvision
from rcnn.interop.torchvision import MODELS, merged

FAST = ("maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")
SMALL = (128, 192)


def imported(model, name, tmp_path, **changes):
    """A torchvision model through a file and `read`, with further settings."""
    path = tmp_path / f"{name}.safetensors"
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)
    found = read("torchvision", path, Asked(model=name))
    return built(replace(found, settings=merged(found.settings, changes)))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, calibrate, patterns):
    """Of each fast constructor the model at a small image size, and ours made of it."""

    def make(name, options=(), changes=()):
        model = calibrated(name, patterns, share=0.1, min_size=SMALL[0], max_size=SMALL[1], **dict(options))
        return model, imported(model, name, tmp_path_factory.mktemp(name), image_size=SMALL, **dict(changes))

    made = {}

    def pair(name):
        if name not in made:
            # All anchors and regions are drawn, so that no chance enters the losses.
            every = {"samples": 10**6, "positive_fraction": 1.0}
            theirs = {"rpn_batch_size_per_image": 10**6, "rpn_positive_fraction": 1.0}
            theirs |= {"box_batch_size_per_image": 10**6, "box_positive_fraction": 1.0}
            # Few regions: of a thousand, the box head takes most of the time.
            few = {"rpn_post_nms_top_n_train": 60, "rpn_post_nms_top_n_test": 60, "box_detections_per_img": 30}
            rpn = {**every, "post_nms": (60, 60)}
            made[name] = make(name, {**theirs, **few}, {"rpn": rpn, "box": {**every, "detections": 30}})
        return made[name]

    return pair


@pytest.mark.parametrize("name", FAST)
def test_an_imported_model_finds_what_torchvision_finds(name, pairs, calibrate, patterns):
    model, ours = pairs(name)
    found = ours.predict(patterns)
    assert 10 < sum(map(len, found)) < 30 * len(patterns)
    for image, detections in zip(patterns, found, strict=True):
        calibrate.check(calibrate.compared(detections, calibrate.theirs(model, image)))


def learned_losses(model, image, boxes, labels, masks):
    """torchvision's losses of one image, its batch statistics as they are, without gradient."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    target = {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(labels) + 1,
        "masks": torch.from_numpy(masks),
    }
    with torch.no_grad():
        losses = model([torch.from_numpy(image).permute(2, 0, 1).float() / 255], [target])
    model.eval()
    return {key: value.item() for key, value in losses.items()}


NAMES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
}


@pytest.mark.parametrize("name", FAST)
def test_an_imported_model_learns_from_torchvisions_losses(name, pairs, patterns):
    model, ours = pairs(name)
    random = np.random.default_rng(3)
    for image in patterns[:2]:
        height, width = image.shape[:2]
        first = random.uniform(0, 0.5, (4, 2)) * (width, height)
        last = first + random.uniform(0.2, 0.5, (4, 2)) * (width, height)
        boxes = np.concatenate((first, last), 1).astype(np.float32)
        labels = random.integers(0, 5, 4)
        y, x = np.mgrid[:height, :width] + 0.5
        masks = np.stack([np.hypot((x - a) / (c - a) - 0.5, (y - b) / (d - b) - 0.5) < 0.5 for a, b, c, d in boxes])
        wanted = learned_losses(model, image, boxes, labels, masks.astype(np.uint8))

        truth = Truth(boxes, labels, np.zeros(4, bool), np.zeros(4, bool), [run_lengths(mask) for mask in masks])
        resized = resize(image, *SMALL, "torchvision")
        truth = resize_truth(replace(truth, frame=Frame((height, width))), (height, width), tuple(resized.shape[1:]))
        with torch.no_grad():
            losses = ours.losses(collate([resized], [truth], masks="mask" in name))
        assert {NAMES[key] for key in wanted} == {key for key in losses if key.startswith("loss")}
        for key, value in wanted.items():
            assert losses[NAMES[key]].item() == pytest.approx(value, abs=1e-4), key


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", MODELS)
def test_on_photos_every_constructor_and_its_import_find_the_same(name, calibrate, photos, tmp_path):
    images = [rcnn.data.read_image(photo) for photo in photos]
    small = "320" in name  # of its 150 proposals more have to count, and half its size would show too little
    model = calibrated(name, images, classes=90, share=0.1 if small else 0.03, shrink=1 if small else 2)
    ours = imported(model, name, tmp_path)
    total = 0
    for photo, image in zip(photos, images, strict=True):
        found = ours.predict(str(photo))[0]
        total += len(found)
        calibrate.check(calibrate.compared(found, calibrate.theirs(model, image)))
    assert total > 10 * len(photos)


def random_state(name, classes=3, seed=0):
    """Every tensor of a constructor's state dict, random."""
    with torch.device("meta"):
        shapes = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes + 1).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else torch.randint(100, value.shape, generator=generator)
        for key, value in shapes.items()
    }


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Makes `read` see a state dict in the place of a file's content."""

    def give(state, name="model.pth"):
        monkeypatch.setattr(weights, "read", lambda path: state)
        path = tmp_path / name
        path.write_bytes(b"content")
        return path

    return give


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_comes_back_as_it_was_and_loads_strictly(name, given, tmp_path):
    state = random_state(name)
    model = built(read("torchvision", given(state), Asked(model=name, bn_eps=1e-5)))
    notes = rcnn.export(model, "torchvision", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == state.keys()
    assert [key for key, value in state.items() if not torch.equal(value, back[key])] == []
    with torch.device("meta"):
        theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4)
    theirs.load_state_dict(back, strict=True, assign=True)
    assert f"{name}(weights=None, weights_backbone=None, num_classes=4)" in notes[0]


def test_the_names_of_the_first_releases_are_read(given):
    state = random_state("maskrcnn_resnet50_fpn")
    old = {
        key.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in state.items()
        if not key.startswith("roi_heads.mask_head.") and "num_batches" not in key
    }
    for i in range(4):
        for kind in ("weight", "bias"):
            old[f"roi_heads.mask_head.mask_fcn{i + 1}.{kind}"] = state[f"roi_heads.mask_head.{i}.0.{kind}"]
    new = read("torchvision", given(state), Asked()).state
    earlier = read("torchvision", given(old), Asked(bn_eps=1e-5)).state
    assert all(torch.equal(value, new[key]) for key, value in earlier.items())


def test_cocos_outputs_get_its_names_and_the_unused_numbers_names_of_their_own(given):
    names = read("torchvision", given(random_state(FAST[1], classes=90)), Asked()).classes
    assert len(set(names)) == 90
    for number, name in enumerate(names, 1):
        wanted = _COCO_CATEGORIES[number]
        assert name == (f"N/A {number}" if wanted == "N/A" else wanted)


def test_names_that_are_given_are_taken_and_counted(given):
    path = given(random_state(FAST[1]))
    assert read("torchvision", path, Asked(classes=("a", "b", "c"))).classes == ("a", "b", "c")
    assert read("torchvision", path).classes == ("1", "2", "3")
    with pytest.raises(UserError, match="3 classes beside the background, and --classes names 2"):
        read("torchvision", path, Asked(classes=("a", "b")))


def frozen(name):
    """As of a model with frozen batch norm, which counts nothing."""
    return {key: value for key, value in random_state(name).items() if "num_batches" not in key}


def test_what_the_keys_leave_open_is_asked_with_the_candidates(given):
    path = given(frozen("fasterrcnn_resnet50_fpn"))
    with pytest.raises(UserError, match=r"--bn-eps 0\.0 .* --bn-eps 1e-5"):
        read("torchvision", path)
    assert read("torchvision", path, Asked(bn_eps=0.0)).settings["backbone"]["eps"] == 0.0
    path = given(frozen("fasterrcnn_mobilenet_v3_large_fpn"))
    with pytest.raises(UserError, match="fasterrcnn_mobilenet_v3_large_fpn and fasterrcnn_mobilenet_v3_large_320_fpn"):
        read("torchvision", path)
    small = read("torchvision", path, Asked(model="fasterrcnn_mobilenet_v3_large_320_fpn"))
    assert small.settings["image_size"] == (320, 640)
    assert small.settings["backbone"]["eps"] == 1e-5


def test_counters_tell_that_batch_norm_has_torchs_eps(given):
    found = read("torchvision", given(random_state("fasterrcnn_resnet50_fpn")))
    assert found.settings["backbone"]["eps"] == 1e-5


@pytest.mark.parametrize(
    ("name", "eps"), [("fasterrcnn_mobilenet_v3_large_320_fpn", 1e-5), ("maskrcnn_resnet50_fpn", 0.0)]
)
def test_the_released_files_are_known_by_their_digest(name, eps, given, monkeypatch):
    path = given(frozen(name))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(torchvision.MODELS, name, replace(MODELS[name], released=digest[:8]))
    found = read("torchvision", path)
    assert found.settings == merged(MODELS[name].settings, {"backbone": {"eps": eps}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("rpn.head.bbox_pred.bias"), "lacks 'rpn.head.bbox_pred.bias'"),
        (lambda state: state.update({"rpn.head.bbox_pred.bias": torch.zeros(8)}), r"bbox_pred.bias' is \[8\]"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 tensors that .* lacks, first 'extra'"),
        (lambda state: state.update({"roi_heads.keypoint_head.0.weight": torch.zeros(1)}), "Keypoint R-CNN"),
        (lambda state: state.update({"roi_heads.box_head.5.weight": torch.zeros(1)}), "no constructor"),
        (lambda state: state.update({"roi_heads.box_predictor.cls_score.weight": torch.zeros(1)}), "expected"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(change, words, given):
    state = dict(random_state("fasterrcnn_mobilenet_v3_large_fpn"))
    change(state)
    with pytest.raises(UserError, match=words):
        read("torchvision", given(state), Asked(model="fasterrcnn_mobilenet_v3_large_fpn"))


def test_other_networks_are_refused_with_what_to_do(given):
    import torchvision.models as tv

    with torch.device("meta"):
        classifier, fcn = tv.resnet18().state_dict(), tv.segmentation.fcn_resnet50(weights_backbone=None).state_dict()
    with pytest.raises(UserError, match=r"rcnn train faster-rcnn/resnet18.* --weights"):
        read("torchvision", given(classifier))
    with pytest.raises(UserError, match="dilated ResNet"):
        read("torchvision", given(fcn))
    with pytest.raises(UserError, match="holds none of torchvision's detectors"):
        read("torchvision", given({"a": torch.zeros(1)}))
    with pytest.raises(UserError, match="did you mean 'fasterrcnn_resnet50_fpn'"):
        read("torchvision", given({"a": torch.zeros(1)}), Asked(model="fasterrcnn_resnet50_fp"))
