"""The fast form against the model itself."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import box_iou

import rcnn
from rcnn import backbones, detectors, inference
from rcnn.inference import layers
from rcnn.inference.quickened import fast_form
from rcnn.structures import ImageBatch

CLASSES = ["a", "b", "c"]
SMALL = {"image_size": [96, 160], "rpn": {"pre_nms": [100, 100], "post_nms": [50, 50]}, "box": {"detections": 200}}
FROZEN = {**SMALL, "backbone": {"norm": "frozen"}}

MODELS = {
    "faster-rcnn/resnet18-fpn": FROZEN,
    "faster-rcnn/resnet50-fpn": {**SMALL, "backbone": {"norm": "batch"}},
    "faster-rcnn/resnet50-fpn-v2": {**SMALL, "backbone": {"norm": "batch"}},
    "faster-rcnn/resnet18-c4": FROZEN,
    "faster-rcnn/mobilenetv3-fpn": FROZEN,
    "faster-rcnn/mobilenetv2": FROZEN,
    "faster-rcnn/squeezenet": {**SMALL, "backbone": {"norm": "none"}},
    "faster-rcnn/zf": {**SMALL, "backbone": {"norm": "group"}},
    "mask-rcnn/resnet18-fpn": FROZEN,
    "mask-rcnn/resnet18-c4": FROZEN,
    "rfcn/resnet18": FROZEN,
}


def made(name: str, settings: dict) -> detectors.Model:
    """A model whose statistics and weights are no longer those of a start, so that nothing cancels."""
    torch.manual_seed(0)
    model = detectors.create(name, CLASSES, settings=settings).eval()
    gain = 1.5 if "mobilenet" in name else 0.5  # deep and without shortcuts around most layers, or features vanish
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.weight.uniform_(gain, gain + 0.5)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for part, module in model.named_modules():
            if part.endswith(("head.conv", "cls_score", "cls_logits", "cls_maps")):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")  # scores neither alike nor all near 1
            elif part.endswith("bbox_pred"):
                nn.init.normal_(module.weight, std=0.3 * module.weight[0].numel() ** -0.5)  # no IoU of exactly ½
    return model


def pictures() -> list[np.ndarray]:
    """Two images of different sizes, so that a batch has padding."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((96, 130), (100, 120))]


@pytest.mark.parametrize("name", MODELS)
def test_maps_and_detections_stay_the_same(name):
    model = made(name, MODELS[name])
    images = ImageBatch(
        torch.randint(0, 255, (2, 3, 96, 160), dtype=torch.uint8), torch.tensor([[96.0, 150.0], [80.0, 160.0]])
    )
    form = fast_form(model, torch.float32)
    with torch.inference_mode():
        for fast, plain in zip(form.backbone(images), model.backbone(images), strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
        proposals = model.propose(images, training=False)
        maps = model.backbone(images)[: len(model.rpn.anchors.strides)]
        for fast, plain in zip(form.rpn.head(maps), model.rpn.head(maps), strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
        a, b = (kind.detect(images, proposals, score=0.0) for kind in (model, form))
    for image in range(2):
        real = a.valid[image]
        assert real.sum() == b.valid[image].sum() > 0
        overlaps = box_iou(a.boxes[image][real], b.boxes[image][b.valid[image]])
        overlaps *= a.labels[image][real][:, None] == b.labels[image][b.valid[image]]
        rows, same = linear_sum_assignment(-overlaps)  # scores that are nearly equal may change places
        assert (overlaps[rows, same] > 0.99).all()
        torch.testing.assert_close(a.scores[image][real], b.scores[image][same], rtol=0, atol=1e-4)
        if a.masks is not None:
            torch.testing.assert_close(a.masks[image][real], b.masks[image][same], rtol=0, atol=1e-3)


def test_label_maps_stay_the_same():
    model = made("fcn-8s/mobilenetv2", {"image_size": [96, 160], "backbone": {"norm": "batch"}})
    plain = model.predict(pictures())
    fast = inference.quicken(model).predict(pictures())
    for a, b in zip(plain, fast, strict=True):
        assert (a.labels == b.labels).mean() > 0.999


def test_what_follows_a_convolution_is_part_of_it():
    model = made("faster-rcnn/resnet50-fpn", FROZEN)
    kinds = {type(module) for module in fast_form(model, torch.float32).backbone.modules()}
    assert not kinds & {nn.Conv2d, nn.ReLU, backbones.norm.FrozenBatchNorm}
    assert layers.FusedConv2d in kinds


def test_a_changed_model_has_a_new_form():
    model = inference.quicken(made("faster-rcnn/resnet18-fpn", FROZEN))
    before = model.predict(pictures()[0], score=0.0)[0].scores
    assert model.form is model.form
    with torch.no_grad():
        model.box_head.cls_score.bias[0] += 1
    after = model.predict(pictures()[0], score=0.0)[0].scores
    assert not np.array_equal(before, after)
    model.quickened = None
    np.testing.assert_allclose(model.predict(pictures()[0], score=0.0)[0].scores, after, atol=1e-4)


def test_a_quickened_model_still_trains_and_is_saved_as_it_was(tmp_path):
    model = made("faster-rcnn/resnet18-fpn", FROZEN)
    names = [*model.state_dict()]
    inference.quicken(model).predict(pictures())
    assert [*model.state_dict()] == names
    assert sum(p.requires_grad for p in model.parameters()) > 0
    rcnn.save(model, tmp_path / "m")
    again = rcnn.load(tmp_path / "m")
    np.testing.assert_array_equal(model.predict(pictures())[0].boxes, again.predict(pictures())[0].boxes)


def test_weights_are_not_copied_where_nothing_is_fused():
    model = made("faster-rcnn/zf", {**SMALL, "backbone": {"norm": "group"}})
    form = fast_form(model, torch.float32)
    own = {id(p) for p in model.parameters()}
    assert all(id(p) in own for p in form.parameters())


@pytest.mark.parametrize("name", ["faster-rcnn/resnet18-fpn", "mask-rcnn/resnet18-fpn"])
def test_bf16_is_as_near_as_autocast_is(name):
    model = made(name, FROZEN)
    images = ImageBatch(torch.randint(0, 255, (1, 3, 96, 160), dtype=torch.uint8), torch.tensor([[96.0, 160.0]]))
    exact = model.backbone(images)
    model.precision = "bf16"
    form = fast_form(model, torch.bfloat16)
    with torch.inference_mode(), model.autocast():
        low, fast = model.backbone(images), form.backbone(images)
    for true, a, b in zip(exact, low, fast, strict=True):
        assert b.dtype == torch.bfloat16
        error = [(x.float() - true).square().mean().sqrt().item() for x in (a, b)]
        assert error[1] < 1.2 * error[0]


def test_without_the_private_operators_the_model_predicts_itself(monkeypatch):
    model = inference.quicken(made("faster-rcnn/resnet18-fpn", FROZEN))

    def gone(*arguments: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")

    monkeypatch.setattr(layers.FusedConv2d, "forward", gone)
    layers.works.cache_clear()
    assert not layers.works(torch.float32)
    assert model.form is model
    assert len(model.predict(pictures())) == 2
    layers.works.cache_clear()


def test_operators_that_give_something_else_are_not_used(monkeypatch):
    forward = layers.FusedLinear.forward
    monkeypatch.setattr(layers.FusedLinear, "forward", lambda self, x: forward(self, x) * 1.01)
    layers.works.cache_clear()
    assert not layers.works(torch.float32)
    layers.works.cache_clear()


def test_a_copy_has_a_form_of_its_own():
    model = inference.quicken(made("faster-rcnn/resnet18-fpn", FROZEN))
    form, clone = model.form, copy.deepcopy(model)
    assert clone.form is not form
    assert clone.form is not clone


def test_a_model_may_be_made_in_inference_mode():
    with torch.inference_mode():
        model = rcnn.create("faster-rcnn/resnet18-fpn", CLASSES, settings=SMALL)
        inside = model.predict(pictures(), score=0.0)
    outside = model.predict(pictures(), score=0.0)
    for one, other in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((3, 64, 64), 200.0), "floating image tensor of values from 0 to 1"),
        (torch.full((3, 64, 64), float("nan")), "floating image tensor of values from 0 to 1"),
        (None, "got NoneType"),
        (b"a.jpg", "got bytes"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_said_in_a_sentence(images, sentence):
    model = detectors.create("faster-rcnn/resnet18-fpn", CLASSES, settings=SMALL)
    with pytest.raises(rcnn.UserError, match=sentence):
        model.predict(images)


@pytest.mark.parametrize("asked", [{"batch_size": 0}, {"score": 1.5}, {"score": -1}])
def test_numbers_that_mean_nothing_are_refused(asked):
    model = detectors.create("faster-rcnn/resnet18-fpn", CLASSES, settings=SMALL)
    with pytest.raises(rcnn.UserError, match="a score from 0 to 1 and a batch of 1 or more"):
        model.predict(pictures(), **asked)


def test_classes_are_names():
    with pytest.raises(rcnn.UserError, match="a list of different class names, got 3"):
        detectors.create("faster-rcnn/resnet18-fpn", 3)


def test_images_may_come_from_what_only_has_places():
    class Places:
        def __getitem__(self, i):
            return pictures()[i]

    model = detectors.create("faster-rcnn/resnet18-fpn", CLASSES, settings=SMALL)
    assert len(model.predict(Places())) == 2
