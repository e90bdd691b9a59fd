import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_pool
from torchvision.transforms.v2 import functional as image_ops

import rcnn
from rcnn import backbones
from rcnn.boxes import iou
from rcnn.data import Augmentation, TrainLoader, open_dataset
from rcnn.detectors import SYSTEMS, to_mapping, updated
from rcnn.detectors.fast_rcnn import FastRCNNOptions
from rcnn.errors import UserError
from rcnn.structures import Batch, GroundTruth, ImageBatch, Proposals

CLASSES = ["cat", "dog", "cow"]
SMALL = {"image_size": [64, 96], "box": {"hidden": [32], "samples": 32}}


def tiny(backbone="squeezenet", recipe="classic", **changes):
    """A small Fast R-CNN whose random weights are large enough that its detections differ from place to place."""
    torch.manual_seed(0)
    changes = {**SMALL, **changes, "box": {**SMALL["box"], **changes.get("box", {})}}
    model = rcnn.create(f"fast-rcnn/{backbone}", CLASSES, recipe=recipe, settings=changes)
    for layer in (model.box_head.cls_score, model.box_head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model.eval()


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def some_boxes(count, height, width, seed=0):
    """Random boxes [count, 4] inside an image, every side at least 8 pixels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 1, (count, 2)) * [width - 10, height - 10]
    size = 8 + rng.uniform(0, 1, (count, 2)) * ([width - 8, height - 8] - corner)
    return np.concatenate((corner, corner + size), 1).astype(np.float32)


def proposals_of(*boxes, count=64):
    """Proposals of images, padded to `count`."""
    padded = torch.zeros(len(boxes), count, 4)
    for row, own in zip(padded, boxes, strict=True):
        row[: len(own)] = torch.as_tensor(own).reshape(-1, 4)
    valid = torch.arange(count) < torch.tensor([len(own) for own in boxes])[:, None]
    return Proposals(padded, valid.float(), valid)


def batch_of(*objects, regions=40, height=64, width=96):
    """Noise images with so many objects each, and regions, some of which lie close to the objects."""
    boxes, truth = [], torch.zeros(len(objects), max(4, *objects), 4)
    labels = torch.full(truth.shape[:2], -1)
    for row, count in enumerate(objects):
        own = some_boxes(count, height, width, seed=row)
        truth[row, :count] = torch.as_tensor(own)
        labels[row, :count] = torch.arange(count) % 3
        near = np.repeat(own, 4, 0) + np.random.default_rng(row).normal(0, 3, (4 * count, 4)).astype(np.float32)
        boxes.append(np.concatenate((near, some_boxes(regions, height, width, seed=100 + row))))
    pixels = torch.stack([torch.from_numpy(noise(height, width, i)).permute(2, 0, 1) for i in range(len(objects))])
    sizes = torch.tensor([[height, width]] * len(objects), dtype=torch.float32)
    nothing = torch.zeros(truth.shape[:2], dtype=torch.bool)
    return Batch(
        ImageBatch(pixels, sizes),
        GroundTruth(truth, labels, nothing),
        ("x",) * len(objects),
        proposals_of(*boxes, count=384),
    )


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss"))


def same(a, b, tolerance=1e-3):
    """Whether two images' detections agree one to one."""
    return (
        len(a) == len(b)
        and np.array_equal(a.labels, b.labels)
        and np.allclose(a.boxes, b.boxes, atol=tolerance)
        and np.allclose(a.scores, b.scores, atol=1e-5)
    )


def test_the_classic_preset_has_the_papers_numbers():
    # Girshick 2015, sections 2.1 to 2.3, 4 and 5.2, and the released code's background interval.
    options = SYSTEMS["fast-rcnn"].presets["classic"]((16,))
    assert options.image_size == (600, 1000)
    assert (options.pool.kind, options.regions.count) == ("pool", 2000)
    box = options.box
    assert (box.samples, box.positive_fraction, box.positive, box.negative) == (64, 0.25, 0.5, (0.1, 0.5))
    assert (box.init_std, box.loss_beta, box.box_weight, box.regression) == ((0.01, 0.001), 1.0, 1.0, "per-class")
    assert tuple(1 / weight for weight in box.coder_weights) == (0.1, 0.1, 0.2, 0.2)
    assert (box.score, box.nms) == (0.05, 0.3)
    assert (options.scores, options.test_scales, options.refine) == ("softmax", (), True)


def test_the_modern_preset_pools_as_mask_rcnn_does():
    options = SYSTEMS["fast-rcnn"].presets["modern"]((4, 8, 16, 32, 64))
    assert (options.pool.kind, options.pool.aligned) == ("align", True)
    assert (options.box.samples, options.box.negative, options.box.nms) == (512, (0.0, 0.5), 0.5)


@pytest.mark.parametrize("recipe", ["classic", "modern"])
def test_every_preset_survives_json(recipe):
    preset = SYSTEMS["fast-rcnn"].presets[recipe]((16,))
    assert updated(FastRCNNOptions(), json.loads(json.dumps(to_mapping(preset)))) == preset


@pytest.mark.parametrize(
    ("name", "first_trained"), [("caffenet", "conv2"), ("vgg-m", "conv2"), ("vgg16", "10")], ids=["S", "M", "L"]
)
def test_pretrained_models_train_from_conv2_or_conv3_1_up(name, first_trained):
    entry = backbones.entry(name)
    with torch.device("meta"):
        trunk = entry.build(torch.nn.Identity)
    layers = list(trunk.body.named_children())
    frozen = trunk.stages[entry.frozen_stages - 1]
    trained = [layer for layer, module in layers[frozen:] if isinstance(module, torch.nn.Conv2d)]
    assert trained[0] == first_trained
    assert trunk.head_size == (7 if name == "vgg16" else 6), "section 2.2"


@pytest.mark.parametrize(("recipe", "low"), [("classic", 0.1), ("modern", 0.0)])
def test_the_losses_are_those_of_equation_1_region_by_region(recipe, low):
    """All regions are in the loss here, so nothing is left to chance."""
    changes = {"pool": {"kind": "pool", "size": 3}, "box": {"samples": 500, "positive_fraction": 1.0}}
    model, batch = tiny(recipe=recipe, **changes), batch_of(2, 3)
    beta = {"classic": 1.0, "modern": 1 / 9}[recipe]
    maps = model.backbone(batch.images)[0].contiguous()
    cls, box, counted, positives = 0.0, 0.0, 0, 0
    for b in range(2):
        truth, labels = batch.truth.boxes[b][batch.truth.labels[b] >= 0], batch.truth.labels[b]
        candidates = torch.cat((batch.proposals.boxes[b][batch.proposals.valid[b]], truth))
        for roi in candidates:
            overlaps = iou(roi[None], truth)[0]
            best = int(overlaps.argmax())
            positive = overlaps[best] >= 0.5
            if not positive and overlaps[best] < low:
                continue
            counted += 1
            pooled = roi_pool(maps[b : b + 1], [roi[None]], 3, 1 / 16)
            hidden = model.box_head.trunk(pooled)
            label = int(labels[best]) if positive else len(CLASSES)
            cls = cls - F.log_softmax(model.box_head.cls_score(hidden), 1)[0, label]
            if positive:
                positives += 1
                w, h = roi[2:] - roi[:2]
                gw, gh = truth[best][2:] - truth[best][:2]
                shift = (truth[best][:2] + truth[best][2:]) / 2 - (roi[:2] + roi[2:]) / 2
                goal = torch.stack((shift[0] / w, shift[1] / h, (gw / w).log(), (gh / h).log()))
                goal = goal / torch.tensor([0.1, 0.1, 0.2, 0.2])
                delta = model.box_head.bbox_pred(hidden)[0, 4 * label : 4 * label + 4]
                for difference in (delta - goal).abs():
                    box = box + (0.5 * difference**2 / beta if difference < beta else difference - 0.5 * beta)
    losses = model(batch)
    assert positives > 5
    assert counted > positives
    assert losses["loss_cls"].item() == pytest.approx((cls / counted).item(), rel=1e-4)
    assert losses["loss_box"].item() == pytest.approx((box / counted).item(), rel=1e-4)
    assert losses["foreground_rois"].item() == positives / 2


def test_a_classic_batch_takes_64_regions_of_each_image_a_quarter_of_them_objects():
    model, batch = tiny(box={"samples": 64}), batch_of(6, 6, regions=300)
    samples = model.box_head.draw(batch.proposals, batch.truth)
    assert samples.used.shape == (2, 64)
    assert samples.positive.sum(1).tolist() == [16, 16]
    pairs = zip(samples.boxes, batch.truth.boxes, strict=True)
    overlaps = torch.stack([iou(rois, truth).amax(1) for rois, truth in pairs])
    assert (overlaps[samples.positive] >= 0.5).all()
    background = samples.used & ~samples.positive
    assert background.any()
    assert ((overlaps[background] >= 0.1) & (overlaps[background] < 0.5)).all()


@pytest.mark.parametrize("backbone", ["squeezenet", "resnet18-fpn"])
@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)])
def test_every_parameter_gets_a_finite_gradient_with_and_without_objects(backbone, objects):
    model = tiny(backbone)
    losses = model(batch_of(*objects), torch.Generator().manual_seed(0))
    assert set(losses) == {"loss_cls", "loss_box", "foreground_rois"}
    total(losses).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_images_without_any_region_neither_train_nor_detect_anything():
    model, batch = tiny(), batch_of(0, 0)
    batch.proposals = proposals_of([], [])
    losses = model(batch)
    assert total(losses).item() == 0
    total(losses).backward()
    assert not model.detect(batch.images, batch.proposals, score=0.0).valid.any()


def test_stages_ask_for_one_loss_each():
    model, batch = tiny(), batch_of(2, 2)
    both = model(batch, torch.Generator().manual_seed(1))
    for part, name in (("classify", "loss_cls"), ("boxes", "loss_box")):
        one = model(batch, torch.Generator().manual_seed(1), part)
        assert set(one) == {name, "foreground_rois"}
        assert torch.equal(one[name], both[name])
    with pytest.raises(UserError, match=r"has no losses 'boxs'; did you mean 'boxes'\?"):
        model(batch, None, "boxs")


def test_a_batch_without_regions_is_refused_in_one_sentence():
    model, batch = tiny(), batch_of(1)
    batch.proposals = None
    for call in (lambda: model(batch), lambda: model.detect(batch.images)):
        with pytest.raises(UserError, match="looks at regions and finds none itself"):
            call()


@pytest.mark.parametrize(("backbone", "recipe"), [("squeezenet", "modern"), ("resnet18-fpn", "classic")])
def test_an_images_detections_do_not_depend_on_its_company(backbone, recipe):
    model = tiny(backbone, recipe)
    images = [noise(60, 90, 1), noise(90, 60, 2), noise(64, 200, 3), noise(61, 91, 4), noise(300, 40, 5)]
    regions = [some_boxes(30 + 40 * i, *image.shape[:2], seed=i) for i, image in enumerate(images)]
    together = model.predict(images, score=0.1, batch_size=4, regions=regions)
    assert any(len(found) for found in together)
    for image, own, found in zip(images, regions, together, strict=True):
        assert same(found, model.predict(image, score=0.1, regions=[own])[0])


def test_the_order_of_regions_and_their_padding_change_no_detection():
    # RoIAlign: on so small a map many regions are the same to RoIPool, and of equal scores the first is the better.
    model, image, regions = tiny(recipe="modern"), noise(64, 96, 1), some_boxes(50, 56, 80)
    expected = model.predict(image, score=0.1, regions=[regions])[0]
    assert len(expected) > 3
    shuffled = np.random.default_rng(0).permutation(regions)
    assert same(expected, model.predict(image, score=0.1, regions=[shuffled])[0])
    images = ImageBatch(torch.from_numpy(image).permute(2, 0, 1)[None], torch.tensor([[64.0, 96.0]]))
    with torch.no_grad():
        few, many = (model.detect(images, proposals_of(regions, count=count)) for count in (50, 192))
    assert torch.equal(few.labels, many.labels)
    torch.testing.assert_close(few.boxes, many.boxes)


def test_without_regions_the_models_method_finds_them():
    model, image = tiny(regions={"mode": "single", "count": 30}), noise(64, 96, 1)
    regions = model.region_method(image)
    assert 0 < len(regions) <= 30
    assert same(model.predict(image, score=0.1)[0], model.predict(image, score=0.1, regions=[regions])[0])


def test_what_matters_at_test_alone_can_change_after_training():
    model, image = tiny(regions={"mode": "single", "count": 30}), noise(64, 96, 1)
    model.options = replace(model.options, refine=False, regions=replace(model.options.regions, count=2))
    found = model.predict(image, score=0.0)[0]
    regions = model.region_method(image)
    assert len(regions) <= 2
    assert {tuple(box) for box in found.boxes.round(2).tolist()} <= {tuple(box) for box in regions.round(2).tolist()}


def test_regions_come_in_pixels_of_the_original_image():
    model = tiny(refine=False)
    large = noise(256, 384, 1)
    region = np.array([[40, 80, 200, 240]], np.float32)
    found = model.predict(large, score=0.0, regions=[region])[0]
    assert len(found) == len(CLASSES), "the region, as each class"
    assert np.allclose(found.boxes, region, atol=1e-2), "without the deltas boxes stay where they were"


@pytest.mark.parametrize(
    ("regions", "sentence"),
    [
        ([np.zeros((3, 5))], r"expected regions as finite boxes \[N, 4\], got an array \[3, 5\]"),
        ([np.full((1, 4), np.nan)], "finite boxes"),
        ([], "one array of regions for each image"),
        ([np.zeros((1, 4))] * 2, "one array of regions for each image"),
    ],
)
def test_what_are_no_regions_is_refused(regions, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny().predict(noise(64, 96, 1), regions=regions)


def test_features_are_those_of_the_valid_regions_image_by_image():
    model, batch = tiny(), batch_of(1, 2)
    batch.proposals = proposals_of(some_boxes(3, 64, 96, 1), some_boxes(5, 64, 96, 2), count=64)
    with torch.no_grad():
        pool5, fc7 = model.region_features(batch.images, batch.proposals)
        rois = [boxes[valid] for boxes, valid in zip(batch.proposals.boxes, batch.proposals.valid, strict=True)]
        pooled = roi_pool(model.backbone(batch.images)[0].contiguous(), rois, 7, 1 / 16)
        expected = model.box_head.trunk(pooled)
    torch.testing.assert_close(pool5, pooled.flatten(1))
    torch.testing.assert_close(fc7, expected, rtol=1e-4, atol=1e-5)


def test_svms_judge_once_they_are_fitted_and_the_softmax_before():
    softmax, model = tiny(), tiny(scores="svm")
    image, regions = noise(64, 96, 1), some_boxes(1, 64, 96)
    assert same(softmax.predict(image, regions=[regions])[0], model.predict(image, regions=[regions])[0])
    torch.nn.init.normal_(model.svm.weight, std=0.1)
    images = ImageBatch(torch.from_numpy(image).permute(2, 0, 1)[None], torch.tensor([[64.0, 96.0]]))
    with torch.no_grad():
        _, fc7 = model.region_features(images, proposals_of(regions))
        margins = model.svm(fc7)[0]
    found = model.predict(image, score=0.0, regions=[regions])[0]
    expected = {label: 1 / (1 + np.exp(-np.log(19) * margin)) for label, margin in enumerate(margins.tolist())}
    assert len(found) == len(CLASSES)
    for label, score in zip(found.labels, found.scores, strict=True):
        assert score == pytest.approx(expected[label], abs=1e-4)
    softmax_boxes = softmax.predict(image, score=0.0, regions=[regions])[0]
    order = np.argsort(found.labels), np.argsort(softmax_boxes.labels)
    assert np.allclose(found.boxes[order[0]], softmax_boxes.boxes[order[1]], atol=1e-3), "boxes are still the network's"


def test_a_model_with_svms_survives_saving(tmp_path):
    model = tiny(scores="svm")
    torch.nn.init.normal_(model.svm.weight)
    loaded = rcnn.load(rcnn.save(model, tmp_path / "model"))
    assert torch.equal(loaded.svm.weight, model.svm.weight)
    assert loaded.options == model.options


def test_each_region_is_read_at_the_scale_where_it_comes_nearest_to_224():
    """Against one region at a time: its image is resized by hand, and torchvision pools it."""
    scales = (240, 360, 480)
    model = tiny(image_size=[240, 480], test_scales=scales)
    assert model.detection_size == (480, 960)
    pixels = noise(480, 640, 1)
    sides = [30.0, 100.0, 160.0, 300.0, 450.0]
    regions = torch.tensor([[20.0, 10.0, 20.0 + side, 10.0 + side] for side in sides])
    images = ImageBatch(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.tensor([[480.0, 640.0]]))
    chosen = []
    with torch.no_grad():
        pool5, _ = model.region_features(images, proposals_of(regions))
        for row, (region, side) in enumerate(zip(regions, sides, strict=True)):
            scale = min(scales, key=lambda s, side=side: abs((side * s / 480) ** 2 - 224**2))
            chosen.append(scale)
            size = [scale, round(640 * scale / 480)]
            resized = image_ops.resize_image(images.pixels, size, antialias=True)
            canvas = torch.zeros(1, 3, -(-size[0] // 32) * 32, -(-size[1] // 32) * 32, dtype=torch.uint8)
            canvas[:, :, : size[0], : size[1]] = resized
            feature = model.backbone(ImageBatch(canvas, torch.tensor([size], dtype=torch.float32)))[0].contiguous()
            expected = roi_pool(feature, [region[None] * scale / 480], 7, 1 / 16).flatten(1)[0]
            torch.testing.assert_close(pool5[row], expected, rtol=1e-3, atol=1e-4)
    assert set(chosen) == set(scales)


def test_one_test_scale_is_the_usual_way():
    image, regions = noise(64, 96, 1), some_boxes(20, 64, 96)
    a, b = (tiny(test_scales=scales).predict(image, score=0.1, regions=[regions])[0] for scales in ((), (64,)))
    assert same(a, b)


def test_many_scales_give_each_image_its_own_result():
    model = tiny(recipe="modern", test_scales=[48, 64, 96])
    images = [noise(60, 90, 1), noise(61, 91, 4), noise(62, 92, 7)]
    regions = [some_boxes(30, 50, 75, seed=i) for i in range(3)]
    for image, own, found in zip(images, regions, model.predict(images, 0.1, regions=regions), strict=True):
        assert same(found, model.predict(image, score=0.1, regions=[own])[0])


def test_a_pyramid_refuses_test_scales():
    with pytest.raises(UserError, match="test_scales needs a backbone with one map"):
        tiny("resnet18-fpn", test_scales=[64, 96])


def test_losses_and_detections_compile_without_a_graph_break():
    model, batch = tiny(), batch_of(2, 0)
    compiled = torch.compile(model.losses, fullgraph=True, backend="eager")
    assert set(compiled(batch, None)) == set(model.losses(batch, None))
    with torch.no_grad():
        found = torch.compile(model.detect, fullgraph=True, backend="eager")(batch.images, batch.proposals)
        expected = model.detect(batch.images, batch.proposals)
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)


def test_thirty_steps_on_digits_lower_both_losses():
    torch.manual_seed(0)
    dataset = open_dataset("digits", "train")
    settings = {"image_size": [128, 192], "box": {"hidden": [128], "samples": 64}, "backbone": {"norm": "group"}}
    model = rcnn.create("fast-rcnn/squeezenet", dataset.classes, settings=settings).train()

    def around(dataset, index):
        """Stand-ins for Selective Search: boxes somewhat larger than the objects, and others."""
        truth = dataset.truth(index).boxes
        size = np.tile(truth[:, 2:] - truth[:, :2], 2) * [-0.15, -0.15, 0.15, 0.15]
        near = np.repeat(truth + size, 10, 0) + np.random.default_rng(index).normal(0, 1, (10 * len(truth), 4))
        return np.concatenate((near, some_boxes(60, 240, 320, seed=index))).astype(np.float32)

    loader = TrainLoader(
        dataset, short=128, long=192, batch_size=2, augmentation=Augmentation.none(), seed=0, workers=0, regions=around
    )
    batch = next(loader.batches())
    assert batch.proposals.boxes.shape[1] % 64 == 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(30):
        losses = model(batch)
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
        history.append([losses["loss_cls"].item(), losses["loss_box"].item()])
    first, last = np.mean(history[:3], 0), np.mean(history[-3:], 0)
    assert last[0] < 0.6 * first[0]
    assert last[1] < 0.8 * first[1]
