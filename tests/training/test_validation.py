"""One pass over the validation images gives what two passes would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcnn import detectors
from rcnn.data import open_dataset
from rcnn.data.loader import eval_batches
from rcnn.detectors import Detector, evaluating
from rcnn.evaluation import detect_in, evaluate
from rcnn.training.validation import judge_images, validate
from rcnn.training.world import World

SETTINGS = {
    "image_size": [48, 96],
    "anchors": {"sizes": [[16], [24]]},
    "backbone": {"levels": [8, 16], "channels": 16},
    "rpn": {"pre_nms": [60, 40], "post_nms": [40, 20]},
    "box": {"hidden": [32], "samples": 16, "init_std": [0.5, 0.1]},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return detectors.create("faster-rcnn/resnet18-fpn", ["red", "blue"], settings=SETTINGS)


@pytest.fixture
def images(squares):
    return open_dataset(squares, "val")


def nothing():
    pass


@pytest.mark.parametrize("workers", [0, 1])
def test_losses_and_detections_of_one_pass_are_those_of_two(model, images, workers):
    found = validate(model, images, batch_size=3, workers=workers, world=World(), pause=nothing)
    losses, generator = {}, torch.Generator().manual_seed(0)
    for rows, batch in eval_batches(images, short=48, long=96, batch_size=3):
        with evaluating(model), torch.no_grad():
            for name, value in model.losses(batch, generator).items():
                losses[name] = losses.get(name, 0) + value.item() * len(rows) / len(images)
    for name, value in losses.items():
        assert found[f"val_{name}"] == pytest.approx(value, rel=1e-4), name
    predictions = detect_in(model, images, batch_size=3)
    truths = [images.truth(i) for i in range(len(images))]
    figures = evaluate(truths, predictions, images.classes, sizes=images.sizes).to_dict()
    assert {name: found[name] for name in Detector.figures} == {name: figures[name] or 0.0 for name in Detector.figures}
    _, seen = judge_images(model, images, range(len(images)), batch_size=2, workers=0, pause=nothing)
    for i, expected in enumerate(predictions):
        assert len(expected.scores) > 0
        np.testing.assert_allclose(seen[i].boxes, expected.boxes, atol=1e-3)
        np.testing.assert_array_equal(seen[i].labels, expected.labels)


def test_an_image_is_read_once_and_its_maps_are_made_once(model, images, monkeypatch):
    read, passes = [], []
    image = images.image
    monkeypatch.setattr(images, "image", lambda i: read.append(i) or image(i))
    hook = model.backbone.fpn.register_forward_hook(lambda *_: passes.append(1))
    validate(model, images, batch_size=2, workers=0, world=World(), pause=nothing)
    hook.remove()
    assert sorted(read) == [0, 1, 2, 3]
    assert len(passes) == 2, "two batches of two images"


def test_maps_are_forgotten_when_the_batch_is_judged(model, images):
    _, batch = next(eval_batches(images, short=48, long=96, batch_size=2))
    model.judge(batch)
    with torch.no_grad():
        before = model.backbone(batch.images)[0]
        batch.images.pixels.zero_()
        assert not torch.equal(model.backbone(batch.images)[0], before)
