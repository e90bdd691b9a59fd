"""R-FCN: its figure in numbers, every parameter's gradient, and the figure's parts against loops."""

import json

import numpy as np
import pytest
import torch

import rcnn
from rcnn.boxes import iou
from rcnn.detectors import SYSTEMS, to_mapping, updated
from rcnn.detectors.rfcn import RFCNOptions
from rcnn.errors import UserError
from rcnn.structures import Batch, GroundTruth, ImageBatch

TINY = {
    "image_size": [64, 96],
    "anchors": {"sizes": [[16.0, 32.0, 48.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [100, 60], "samples": 64},
    "pool": {"size": 3},
    "box": {"channels": 16, "samples": 32},
}
CLASSES = ["cat", "dog", "cow"]


def tiny(recipe="modern", backbone="resnet18", **changes):
    """A small random R-FCN whose weights are large enough that its detections differ from place to place."""
    torch.manual_seed(0)
    settings = {
        name: {**value, **changes.pop(name, {})} if isinstance(value, dict) else value for name, value in TINY.items()
    }
    model = rcnn.create(f"rfcn/{backbone}", CLASSES, recipe=recipe, settings={**settings, **changes})
    head = model.box_head
    for layer in (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, head.cls_maps, head.bbox_maps):
        if layer is not None:
            torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(*counts, height=64, width=96):
    """A batch of noise images with so many objects each."""
    rng = torch.Generator().manual_seed(0)
    most = max(1, *counts)
    corner = torch.rand(len(counts), most, 2, generator=rng) * 40
    boxes = torch.cat((corner, corner + 10 + 10 * torch.rand(len(counts), most, 2, generator=rng)), -1)
    labels = torch.randint(0, 3, (len(counts), most), generator=rng)
    for row, count in enumerate(counts):
        boxes[row, count:], labels[row, count:] = 0, -1
    pixels = torch.randint(0, 256, (len(counts), 3, height, width), generator=rng, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * len(counts), dtype=torch.float32)
    return Batch(ImageBatch(pixels, sizes), GroundTruth(boxes, labels, labels < -1), ("x",) * len(counts))


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss"))


def missing_gradients(model):
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("counts", [(2, 3), (0, 0)])
def test_every_parameter_gets_a_finite_gradient_with_and_without_objects(recipe, counts):
    model = tiny(recipe)
    losses = model(batch_of(*counts), torch.Generator().manual_seed(0))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "foreground_rois"}
    total(losses).backward()
    assert missing_gradients(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("regression", ["class-agnostic", "class-agnostic-bg", "per-class", "none"])
@pytest.mark.parametrize("size", [3, 7])
def test_the_maps_are_as_many_as_the_paper_says(regression, size):
    model = tiny(pool={"size": size}, box={"regression": regression})
    features = model.backbone(batch_of(1).images)
    maps = model.box_head.maps(features[-1])
    slots = {"class-agnostic": 1, "class-agnostic-bg": 2, "per-class": 3, "none": 0}[regression]
    assert maps.scores.shape[1] == size**2 * (3 + 1)
    assert (maps.deltas.shape[1] if slots else maps.deltas) == (size**2 * 4 * slots or None)
    boxes, valid = torch.tensor([[[5.0, 5, 60, 50]]]), torch.ones(1, 1, dtype=torch.bool)
    output = model.box_head(maps, boxes, valid)
    assert output.logits.shape == (1, 1, 4)
    assert output.deltas.shape == (1, 1, 3 if regression == "per-class" else 1, 4)
    total(model.losses(batch_of(2))).backward()
    assert missing_gradients(model) == []


def test_a_region_is_scored_by_the_mean_of_its_bins_own_maps():
    """Equation 1 of the paper by loops, with whole pixels: bin (i, j) of class c reads map (i, j, c) alone."""
    model = tiny(pool={"kind": "pool"})
    maps = model.box_head.maps(model.backbone(batch_of(1).images)[-1])
    box = torch.tensor([17.0, 9, 78, 61])
    output = model.box_head(maps, box[None, None], torch.ones(1, 1, dtype=torch.bool))
    left, top, right, bottom = 17 / 16, 9 / 16, 79 / 16, 62 / 16
    for c in range(4):
        votes = []
        for i in range(3):
            for j in range(3):
                rows = range(
                    int(np.floor(top + i * (bottom - top) / 3)), int(np.ceil(top + (i + 1) * (bottom - top) / 3))
                )
                columns = range(
                    int(np.floor(left + j * (right - left) / 3)), int(np.ceil(left + (j + 1) * (right - left) / 3))
                )
                own = maps.scores[0, (i * 3 + j) * 4 + c]
                votes.append(np.mean([own[y, x].item() for y in rows if y < 4 for x in columns if x < 6]))
        assert output.logits[0, 0, c].item() == pytest.approx(np.mean(votes), abs=1e-4)


def test_the_rpn_reads_conv4_and_the_votes_conv5_of_one_stride():
    model = tiny()
    conv4, conv5 = model.backbone(batch_of(1).images)
    assert model.system == "rfcn/resnet18-c5"
    assert model.backbone.strides == (16, 16)
    assert (conv4.shape[1:], conv5.shape[1:]) == ((256, 4, 6), (512, 4, 6))
    seen = []
    model.rpn.head.conv.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.box_head.reduce.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.losses(batch_of(1))
    assert [x.shape[1] for x in seen] == [256, 512], "and the maps are made once, though hard examples look twice"
    seen.clear()
    tiny_classic = tiny("classic")
    tiny_classic.box_head.reduce.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    tiny_classic.losses(batch_of(1))
    assert len(seen) == 1


def test_backbones_with_one_map_serve_both_and_leave_their_head_out():
    model = tiny(backbone="squeezenet", box={"channels": 0})
    assert model.box_head.reduce is None
    assert not any("head" in name for name, _ in model.backbone.named_parameters())
    total(model.losses(batch_of(1))).backward()
    assert missing_gradients(model) == []


def test_a_pyramid_is_refused():
    with pytest.raises(UserError, match="R-FCN reads one map, and 'resnet18-fpn' gives 5"):
        tiny(backbone="resnet18-fpn")


def test_an_rpn_of_its_own_ends_at_conv4():
    model = tiny(shared_backbone=False)
    assert model.rpn_backbone is not None
    assert not any("layer4" in name for name, _ in model.rpn_backbone.named_parameters())
    total(model.losses(batch_of(2))).backward()
    assert missing_gradients(model) == []
    images, shared = batch_of(1).images, tiny()
    assert torch.equal(model.rpn_backbone(images)[0], shared.backbone(images)[0])


def test_an_images_detections_do_not_depend_on_its_company_or_the_mode():
    model = tiny()
    images = [noise(60, 90, 1), noise(90, 60, 2), noise(64, 200, 3), noise(61, 91, 4)]
    together = model.train().predict(images, score=0.1, batch_size=4)
    assert any(len(found) for found in together)
    for image, found in zip(images, together, strict=True):
        alone = model.eval().predict(image, score=0.1)[0]
        assert np.array_equal(found.labels, alone.labels)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_a_saved_model_is_the_same_model(tmp_path):
    model, image = tiny("classic", box={"regression": "class-agnostic-bg"}), noise(64, 96, 1)
    rcnn.save(model, tmp_path / "model")
    again = rcnn.load(tmp_path / "model")
    assert again.options == model.options
    expected, found = model.predict(image, score=0.1)[0], again.predict(image, score=0.1)[0]
    assert len(expected)
    assert np.array_equal(found.boxes, expected.boxes)


def test_losses_and_detections_compile_without_a_graph_break():
    model, batch = tiny("classic").eval(), batch_of(2, 0)
    eager = model.losses(batch, None)
    assert set(eager) == set(torch.compile(model.losses, fullgraph=True, backend="eager")(batch, None))
    with torch.no_grad():
        found = torch.compile(model.detect, fullgraph=True, backend="eager")(batch.images)
        expected = model.detect(batch.images)
    assert torch.equal(found.labels, expected.labels)


def test_in_bf16_the_maps_are_float32():
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.box_head.maps(model.backbone(batch_of(1).images)[-1])
    assert maps.scores.dtype == maps.deltas.dtype == torch.float32


@pytest.mark.slow
def test_a_few_steps_on_one_image_find_its_objects():
    model = tiny(rpn={"pre_nms": [200, 100], "post_nms": [200, 100]}).train()
    pixels = np.full((64, 96, 3), 60, np.uint8)
    pixels[10:40, 10:40], pixels[20:50, 55:85] = (250, 30, 30), (30, 30, 250)
    boxes = torch.tensor([[[10.0, 10, 40, 40], [55, 20, 85, 50]]])
    batch = Batch(
        ImageBatch(torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.tensor([[64.0, 96.0]])),
        GroundTruth(boxes, torch.tensor([[0, 2]]), torch.zeros(1, 2, dtype=torch.bool)),
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(120):
        optimiser.zero_grad()
        total(model.losses(batch)).backward()
        optimiser.step()
    found = model.predict(pixels, score=0.5)[0]
    assert set(found.names) == {"cat", "cow"}
    for label, box in ((0, boxes[:, 0]), (2, boxes[:, 1])):
        surest = torch.from_numpy(found.boxes[found.labels == label][:1])
        assert iou(surest, box).item() > 0.6


def test_a_stage_may_ask_for_the_losses_of_one_half():
    model, batch = tiny(), batch_of(2, 3)
    assert set(model(batch, None, "rpn")) == {"loss_rpn_cls", "loss_rpn_box"}
    assert set(model(batch, None, "detector")) == {"loss_cls", "loss_box", "foreground_rois"}


@pytest.mark.parametrize("recipe", ["classic", "modern"])
def test_every_preset_survives_json(recipe):
    preset = SYSTEMS["rfcn"].presets[recipe]((16,))
    assert updated(RFCNOptions(), json.loads(json.dumps(to_mapping(preset)))) == preset


def test_the_classic_preset_has_the_papers_numbers():
    # Dai et al. 2016, sections 2 and 3, and the code's 6,000 → 300 proposals and 128 hard examples.
    options = SYSTEMS["rfcn"].presets["classic"]((16,))
    assert (options.pool.size, options.pool.kind, options.box.channels) == (7, "pool", 1024)
    assert (options.rpn.pre_nms, options.rpn.post_nms) == ((6000, 6000), (300, 300))
    assert (options.box.ohem, options.box.samples, options.box.regression) == ("rfcn", 128, "class-agnostic")
    assert (options.box.nms, options.box.negative, options.image_size) == (0.3, (0.0, 0.5), (600, 1000))
