"""R-CNN and SPP-net: where their features come from, what judges them, and which losses they have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import rcnn
from rcnn.data.collate import collate_regions
from rcnn.detectors.three_stage import FineTuneOptions, draw
from rcnn.errors import UserError
from rcnn.heads.classifier import Classifier
from rcnn.structures import Batch, GroundTruth, ImageBatch, Proposals

SMALL = {"image_size": [64, 128], "warp": {"size": 40}, "finetune": {"positives": 4, "background": 12}}
NAMES = ["rcnn/alexnet", "rcnn/resnet18", "sppnet/zf", "sppnet/resnet18"]


@pytest.fixture(scope="module")
def models():
    """A random model of each kind, its scores spread out."""
    made = {}
    for name in NAMES:
        torch.manual_seed(0)
        extra = {"hidden": [32, 32]} if name.startswith("sppnet") else {}
        made[name] = rcnn.create(name, ["cat", "dog", "cow"], settings={**SMALL, **extra})
        torch.nn.init.normal_(made[name].cls_score.weight, std=1.0)
    return made


@pytest.fixture
def scene():
    """Two images of 64 × 96 and 50 × 80 pixels in one batch, three and two regions, one object in the first."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    pixels[1, :, 50:] = 0
    pixels[1, :, :, 80:] = 0
    regions = [
        np.array([[4, 4, 40, 40], [6, 6, 44, 44], [50, 10, 90, 60]], np.float32),
        np.array([[0, 0, 80, 50], [10, 10, 30, 45]], np.float32),
    ]
    truth = GroundTruth(
        torch.tensor([[[4.0, 4, 40, 42]], [[0, 0, 0, 0]]]),
        torch.tensor([[1], [-1]]),
        torch.zeros(2, 1, dtype=torch.bool),
    )
    images = ImageBatch(pixels, torch.tensor([[64.0, 96], [50, 80]]))
    return Batch(images, truth, ("a", "b"), collate_regions(regions))


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_valid_regions_image_by_image(models, scene, name):
    model = models[name].eval()
    with torch.no_grad():
        pool5, fc7 = model.region_features(scene.images, scene.proposals)
        assert len(pool5) == len(fc7) == 5
        second = scene.images.pixels[1:, :, :64, :96], scene.images.sizes[1:]
        alone = Proposals(scene.proposals.boxes[1:], scene.proposals.scores[1:], scene.proposals.valid[1:])
        own_pool5, own_fc7 = model.region_features(ImageBatch(*second), alone)
    torch.testing.assert_close(pool5[3:], own_pool5, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fc7[3:], own_fc7, rtol=1e-4, atol=1e-4)


def test_rcnn_sees_a_region_as_a_crop(models, scene):
    model = models["rcnn/alexnet"].eval()
    box = scene.proposals.boxes[0, 1:2]
    with torch.no_grad():
        crops = model.warp(scene.images.pixels[0], box, torch.tensor([123.675, 116.28, 103.53]))
        features = F.adaptive_max_pool2d(model.backbone(ImageBatch(crops, torch.tensor([[40.0, 40]])))[-1], 6)
        _, fc7 = model.region_features(scene.images, scene.proposals)
        torch.testing.assert_close(fc7[1], model.classifier.layers(features)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "window", "stride", "pooled"), [(13, 3, 2, 6), (14, 2, 2, 7)])
def test_pool5_of_a_full_crop_is_the_published_pooling(size, window, stride, pooled):
    maps = torch.randn(2, 3, size, size)
    assert torch.equal(F.adaptive_max_pool2d(maps, pooled), F.max_pool2d(maps, window, stride))


def test_networks_that_average_their_map_have_its_mean_as_fc7_and_its_quarters_as_pool5():
    backbone = rcnn.backbones.create("resnet18-c4")
    layers = backbone.head
    classifier = Classifier(backbone).eval()
    maps = torch.randn(2, 256, 8, 8)
    with torch.no_grad():
        pool5, fc7 = classifier(maps)
        torch.testing.assert_close(fc7, layers(maps))
        torch.testing.assert_close(pool5.view(2, 512, 4).mean(2), fc7)
    assert backbone.head is None


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_images_draw_regions_from_their_proposals(models, scene, name):
    losses = models[name](scene, torch.Generator().manual_seed(0))
    assert losses["loss_cls"].isfinite()
    assert 0 <= losses["accuracy"] <= 1
    again = models[name].eval()(scene, torch.Generator().manual_seed(1))
    assert again["loss_cls"].requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_tells_classes_apart_and_never_answers_background(models, name):
    model = models[name].eval()
    crops = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    boxes = torch.tensor([3.0, 3, 37, 37]).expand(6, 1, 4)
    truth = GroundTruth(boxes, torch.tensor([[0], [1], [2], [0], [1], [2]]), torch.zeros(6, 1, dtype=torch.bool))
    batch = Batch(ImageBatch(crops, torch.full((6, 2), 40.0)), truth)
    before = model(batch, part="pretrain")
    with torch.no_grad():
        model.cls_score.bias[-1] += 100  # background
        after = model(batch, part="pretrain")
        model.cls_score.bias[-1] -= 100
    torch.testing.assert_close(before["loss_cls"], after["loss_cls"])


def test_background_is_the_last_answer_of_fine_tuning(models):
    model = models["rcnn/resnet18"].eval()
    crops = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    truth = GroundTruth(torch.zeros(4, 1, 4), torch.full((4, 1), -1), torch.zeros(4, 1, dtype=torch.bool))
    with torch.no_grad():
        model.cls_score.bias[-1] += 1000
        losses = model(Batch(ImageBatch(crops, torch.full((4, 2), 40.0)), truth), part="finetune")
        model.cls_score.bias[-1] -= 1000
    assert losses["loss_cls"] < 1e-3
    assert losses["accuracy"] == 1


def test_the_draw_has_at_most_its_share_of_objects_and_labels_them(scene):
    generator = torch.Generator().manual_seed(0)
    regions, labels = draw(scene.proposals, scene.truth, FineTuneOptions(positives=2, background=6), generator)
    from rcnn.boxes import iou

    for b in range(2):
        for box, label, valid in zip(regions.boxes[b], labels[b].tolist(), regions.valid[b], strict=True):
            if valid:
                overlap = iou(box[None], scene.truth.boxes[b, :1])[0, 0]
                assert label == (1 if overlap >= 0.5 else -1)
    assert (labels[0] == 1).sum() == 2
    assert regions.valid[1].sum() == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_softmax_judges_until_the_svms_are_fitted(models, scene, name):
    model = models[name].eval()
    with torch.no_grad():
        _, fc7 = model.region_features(scene.images, scene.proposals)
        torch.testing.assert_close(model.class_scores(fc7), model.cls_score(fc7).softmax(1)[:, :3])
        model.svm.weight.copy_(torch.randn(model.svm.weight.shape, generator=torch.Generator().manual_seed(0)))
        try:
            expected = torch.sigmoid(model.svm(fc7) * 2.9444)
            torch.testing.assert_close(model.class_scores(fc7), expected, rtol=1e-3, atol=1e-4)
        finally:
            model.svm.weight.zero_()


def test_a_margin_of_minus_one_is_reported_just_not():
    from rcnn.heads.fitted import margin_scores

    torch.testing.assert_close(margin_scores(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([0.05, 0.5, 0.95]))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_detections_that_it_would_have_alone(models, name):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(3)]
    regions = [np.array([[5, 5, 40, 40], [20, 10, 90, 60], [0, 0, 96, 64]], np.float32)[: k + 1] for k in range(3)]
    together = models[name].predict(images, score=0.0, regions=regions)
    for image, boxes, found in zip(images, regions, together, strict=True):
        (alone,) = models[name].predict(image, score=0.0, regions=[boxes])
        np.testing.assert_allclose(found.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-3, atol=1e-4)


def test_no_region_gives_no_detection(models):
    (found,) = models["rcnn/resnet18"].predict(
        np.zeros((64, 96, 3), np.uint8), regions=[np.empty((0, 4), np.float32)], score=0.0
    )
    assert len(found) == 0


def test_regions_must_be_given(models, scene):
    with pytest.raises(UserError, match="regions"):
        models["rcnn/resnet18"].detect(scene.images)


@pytest.mark.parametrize("name", ["rcnn/resnet18-fpn", "sppnet/resnet18-fpn"])
def test_a_pyramid_is_refused(name):
    with pytest.raises(UserError, match="pyramid"):
        rcnn.create(name, ["cat"])


def test_a_saved_model_has_its_svms_and_box_regressors(models, scene, tmp_path):
    from rcnn import detectors

    model = models["sppnet/resnet18"].eval()
    generator = torch.Generator().manual_seed(0)
    model.svm.weight.copy_(torch.randn(model.svm.weight.shape, generator=generator))
    model.ridge.weight.copy_(torch.randn(model.ridge.weight.shape, generator=generator) * 1e-4)
    try:
        loaded = detectors.load(detectors.save(model, tmp_path / "model"), device="cpu")
        with torch.no_grad():
            before, after = (m.detect(scene.images, scene.proposals, score=0.0) for m in (model, loaded))
        assert torch.equal(before.boxes, after.boxes)
        assert torch.equal(before.scores, after.scores)
    finally:
        model.svm.weight.zero_()
        model.ridge.weight.zero_()


def test_spp_starts_from_the_published_fc6_on_its_finest_level(monkeypatch):
    from rcnn import backbones
    from rcnn.backbones.weights import Loaded
    from rcnn.detectors.sppnet import fully_connected
    from rcnn.pooling import SpatialPyramidPool, SPPOptions

    backbone = backbones.create("alexnet")
    backbone.loaded = Loaded(None, 0, ())
    published = backbone.head[1].weight.detach().clone()
    spp = SpatialPyramidPool((6, 3, 2, 1), 16, SPPOptions())
    fc, width = fully_connected(backbone, spp, ())
    assert width == 4096
    assert torch.equal(fc[1].weight[:, : published.shape[1]], published)
    assert not fc[1].weight[:, published.shape[1] :].any()


def test_spp_reads_each_region_at_the_scale_nearest_its_size(scene):
    torch.manual_seed(0)
    model = rcnn.create("sppnet/resnet18", ["cat"], settings={**SMALL, "hidden": [8, 8], "test_scales": [64, 32]})
    assert model.detection_size == (64, 128)
    model.eval()
    with torch.no_grad():
        many, _ = model.region_features(scene.images, scene.proposals)
        one, _ = model.pooled_features([scene.images], scene.images, scene.proposals)
    torch.testing.assert_close(many, one)  # all are smaller than 224², so the larger scale is nearer
