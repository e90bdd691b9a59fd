"""Mask R-CNN: Faster R-CNN's detections, and a mask for each of them and for nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import rcnn
from rcnn import rle
from rcnn.data.collate import collate
from rcnn.data.dataset import Truth
from rcnn.data.segments import run_lengths
from rcnn.detectors import load, save, to_mapping
from rcnn.detectors.registry import SYSTEMS
from rcnn.errors import UserError

TINY = {
    "image_size": [64, 96],
    "backbone": {"channels": 16},
    "anchors": {"sizes": [[16.0], [32.0], [64.0], [96.0], [128.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [100, 60], "samples": 64},
    "box": {"hidden": [32], "samples": 32},
    "mask": {"convs": [16], "deconv": 16},
}
C4 = {
    "image_size": [64, 96],
    "anchors": {"sizes": [[16.0, 32.0, 64.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [40, 20], "samples": 64, "channels": 32},
    "box": {"samples": 8},
    "mask": {"deconv": 16},
}


def model_of(backbone="resnet18-fpn", settings=TINY, recipe="modern", **changes):
    torch.manual_seed(0)
    model = rcnn.create(f"mask-rcnn/{backbone}", ["cat", "dog", "cow"], recipe=recipe, settings={**settings, **changes})
    for layer in (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, model.box_head.cls_score):
        torch.nn.init.normal_(layer.weight, std=0.1)
    torch.nn.init.normal_(model.box_head.bbox_pred.weight, std=0.1)
    torch.nn.init.normal_(model.mask_head.mask_logits.weight, std=1.0)
    return model


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(*counts, height=64, width=96, masks=True):
    """Noise with so many round objects an image."""
    rng = np.random.default_rng(0)
    images, truths = [], []
    ys, xs = np.mgrid[:height, :width] + 0.5
    for count in counts:
        images.append(torch.from_numpy(noise(height, width, count)).permute(2, 0, 1))
        centres = rng.uniform(20, 44, (count, 2))
        drawn = [(xs - x) ** 2 + (ys - y) ** 2 < 12**2 for x, y in centres]
        boxes = np.concatenate((centres - 12, centres + 12), 1).astype(np.float32).reshape(-1, 4)
        none = np.zeros(count, bool)
        truths.append(Truth(boxes, rng.integers(0, 3, count), none, none, [run_lengths(mask) for mask in drawn]))
    return collate(images, truths, ["x"] * len(counts), masks=masks)


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss"))


FORMS = [("resnet18-fpn", TINY), ("resnet18-c4", C4)]


@pytest.mark.parametrize(("backbone", "settings"), FORMS)
@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0)])
def test_every_parameter_gets_a_finite_gradient_with_and_without_objects(backbone, settings, counts):
    model = model_of(backbone, settings)
    losses = model(batch_of(*counts), torch.Generator().manual_seed(0))
    boxes = {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "foreground_rois"}
    assert set(losses) == {*boxes, "loss_mask"}
    total(losses).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_other_branches_are_faster_rcnns_own():
    """With the same weights boxes, scores and losses are those of Faster R-CNN: the mask branch only adds."""
    masked = model_of()
    plain = rcnn.create(
        "faster-rcnn/resnet18-fpn", masked.classes, settings={k: v for k, v in TINY.items() if k != "mask"}
    )
    plain.load_state_dict({k: v for k, v in masked.state_dict().items() if not k.startswith("mask_head.")})
    batch, image = batch_of(2, 3), noise(64, 96, 1)
    ours, theirs = (m.losses(batch, torch.Generator().manual_seed(0)) for m in (masked, plain))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    found, expected = masked.predict(image)[0], plain.predict(image)[0]
    assert len(found) > 3
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.scores, expected.scores)


def test_losses_do_not_depend_on_the_mode_and_the_same_seed_repeats_them():
    model, batch = model_of(), batch_of(2, 3)
    draws = [
        model.train(mode).losses(batch, torch.Generator().manual_seed(1))["loss_mask"].item() for mode in (True, False)
    ]
    assert draws[0] == draws[1] > 0


@pytest.mark.parametrize(("backbone", "settings"), FORMS)
def test_an_images_masks_do_not_depend_on_its_company(backbone, settings):
    model = model_of(backbone, settings)
    images = [noise(60, 90, 1), noise(64, 96, 2), noise(90, 60, 3)]
    together = model.predict(images, score=0.1)
    assert any(len(found) for found in together)
    for image, found in zip(images, together, strict=True):
        alone = model.predict(image, score=0.1)[0]
        assert len(alone) == len(found)
        assert (alone.masks != found.masks).mean() < 1e-3


def test_masks_lie_in_their_boxes_in_pixels_of_the_original():
    found = model_of().predict(noise(128, 192, 1), score=0.05)[0]
    assert found.masks.shape == (len(found), 128, 192)
    assert found.masks.any()
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        assert ((rows + 0.5 >= y1) & (rows + 0.5 <= y2) & (columns + 0.5 >= x1) & (columns + 0.5 <= x2)).all()


def test_masks_are_written_as_rle_and_drawn(tmp_path):
    found = model_of().predict(noise(64, 96, 1), score=0.05)[0]
    found.save(tmp_path / "found.json")
    entries = json.loads((tmp_path / "found.json").read_text())["detections"]
    assert [rle.decode(entry["mask"]).tolist() for entry in entries] == found.masks.tolist()
    assert entries[0]["mask"]["size"] == [64, 96]
    assert found.to_coco(7)[0]["segmentation"] == entries[0]["mask"]
    best = found.only(np.arange(len(found)) == 0)
    assert len(best.segments) == 1
    with_mask, without = (np.asarray(d.picture()) for d in (best, best_without_masks(best)))
    assert (with_mask != without).any()
    assert not (with_mask != without).any(2)[~best.masks[0]].any(), "nothing beside the mask is tinted"


def best_without_masks(found):
    from dataclasses import replace

    return replace(found, segments=None)


def test_nothing_found_has_no_masks_but_is_no_system_without():
    found = model_of().predict(noise(64, 96, 1), score=1.0)[0]
    assert len(found) == 0
    assert found.segments == []
    assert found.masks.shape == (0, 64, 96)


def test_a_stored_model_makes_the_same_masks(tmp_path):
    model, image = model_of(mask={"convs": [16, 8], "deconv": 8, "threshold": 0.4}), noise(64, 96, 1)
    save(model, tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.options.mask.threshold == 0.4
    assert (again.predict(image)[0].masks == model.predict(image)[0].masks).all()


def test_the_threshold_is_an_option():
    image = noise(64, 96, 1)
    areas = [
        model_of(mask={"convs": [16], "deconv": 16, "threshold": threshold}).predict(image)[0].masks.sum()
        for threshold in (0.2, 0.5, 0.8)
    ]
    assert areas[0] > areas[1] > areas[2]


@pytest.mark.parametrize(("backbone", "settings"), FORMS)
def test_losses_and_masks_compile_without_a_graph_break(backbone, settings):
    model, batch = model_of(backbone, settings).eval(), batch_of(2, 0)
    eager = model.losses(batch, None)
    assert set(eager) == set(torch.compile(model.losses, fullgraph=True, backend="eager")(batch, None))
    with torch.no_grad():
        found = torch.compile(model.detect, fullgraph=True, backend="eager")(batch.images)
        expected = model.detect(batch.images)
    assert torch.allclose(found.masks, expected.masks, atol=1e-4)


def test_a_batch_without_masks_is_refused():
    with pytest.raises(UserError, match="learns from masks"):
        model_of().losses(batch_of(2, masks=False))


@pytest.mark.parametrize(
    ("strides", "samples", "proposals"), [((4, 8, 16, 32, 64), 512, (2000, 1000)), ((16,), 64, (2000, 300))]
)
def test_the_classic_recipe_has_the_papers_numbers(strides, samples, proposals):
    options = SYSTEMS["mask-rcnn"].presets["classic"](strides)
    assert options.image_size == (800, 1333)
    assert (options.box.samples, options.box.positive_fraction) == (samples, 0.25)
    assert options.rpn.post_nms == proposals
    assert (options.mask.convs, options.mask.deconv, options.mask.threshold) == ((256,) * 4, 256, 0.5)
    assert (options.pool.kind, options.pool.sampling_ratio, options.box.nms) == ("align", 2, 0.5)
    assert set(to_mapping(options)) == {*to_mapping(SYSTEMS["faster-rcnn"].presets["classic"](strides)), "mask"}
