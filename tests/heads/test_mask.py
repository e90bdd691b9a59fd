"""The mask head against loops over single RoIs and cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcnn.data.collate import collate_masks
from rcnn.data.dataset import Truth
from rcnn.data.segments import run_lengths
from rcnn.heads.mask import MaskHead, MaskHeadOptions
from rcnn.heads.roi_head import RoISamples
from rcnn.structures import DetectionBatch
from rcnn.targets import cut

CLASSES, CHANNELS = 3, 6


def head_of(**changes):
    torch.manual_seed(0)
    head = MaskHead(CHANNELS, CLASSES, MaskHeadOptions(convs=(8, 8), deconv=8, **changes), most=4)
    torch.nn.init.normal_(head.mask_logits.weight, std=1.0)
    return head


def look_of(head, side=7):
    """A look whose features depend on the box alone, so that a RoI can be looked at by itself."""

    def look(boxes, valid):
        phases = torch.arange(CHANNELS * side * side, dtype=torch.float32).view(CHANNELS, side, side)
        features = torch.sin(boxes.sum(-1)[..., None, None, None] + phases) * valid[..., None, None, None]
        return head(features.flatten(0, 1)).unflatten(0, boxes.shape[:2])

    return look


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    truths = []
    for _ in range(2):
        drawn = [rng.random((40, 60)) < 0.5, np.ones((40, 60), bool), None]
        segments = [None if m is None else run_lengths(m) for m in drawn]
        none = np.zeros(3, bool)
        truths.append(Truth(np.zeros((3, 4), np.float32), np.zeros(3, np.int64), none, none, segments))
    return collate_masks(truths, [(40, 60)] * 2, 4)


@pytest.fixture
def samples():
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 6, 2, generator=rng) * 20
    boxes = torch.cat((corner, corner + 5 + torch.rand(2, 6, 2, generator=rng) * 20), -1)
    labels = torch.tensor([[0, 2, 1, 3, 3, 3], [3, 1, 3, 3, 2, 3]])
    matched = torch.tensor([[0, 1, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    return RoISamples(boxes, labels >= 0, labels < CLASSES, labels, torch.zeros(2, 6, 4), matched)


@pytest.mark.parametrize("target", ["binary", "soft"])
@pytest.mark.parametrize("classes", ["per-class", "class-agnostic"])
def test_the_loss_is_the_mean_over_positives_of_the_true_class_alone(masks, samples, target, classes):
    head = head_of(target=target, classes=classes, weight=2.0)
    look = look_of(head)
    terms = []
    for b, p in samples.positive.nonzero().tolist():
        if samples.matched[b, p] == 2:
            continue  # its object has no mask
        box = samples.boxes[b : b + 1, p : p + 1]
        logits = look(box, torch.ones(1, 1))[0, 0, samples.labels[b, p] if classes == "per-class" else 0]
        padded = torch.zeros(2, 1, 4)
        padded[b] = box[0]
        goal = cut(masks, padded, samples.matched[:, p : p + 1], 14)[b, 0]
        goal = goal if target == "soft" else (goal >= 0.5).float()
        cells = [
            -(g * torch.sigmoid(v).log() + (1 - g) * torch.sigmoid(-v).log())
            for g, v in zip(goal.flatten(), logits.flatten(), strict=True)
        ]
        terms.append(sum(cells) / len(cells))
    assert len(terms) == 4
    found = head.losses(look, samples, masks)
    assert set(found) == {"loss_mask"}
    assert found["loss_mask"].item() == pytest.approx(2 * (sum(terms) / len(terms)).item(), rel=1e-4)


def test_only_the_true_classes_maps_learn(masks, samples):
    head = head_of()
    samples.labels[samples.labels == 2] = 0
    head.losses(look_of(head), samples, masks)["loss_mask"].backward()
    grads = head.mask_logits.weight.grad.flatten(1).abs().sum(1)
    assert (grads > 0).tolist() == [True, True, False]


def test_without_positives_every_parameter_gets_a_gradient_of_nothing(masks, samples):
    head = head_of()
    samples.positive[:] = False
    loss = head.losses(look_of(head), samples, masks)["loss_mask"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and p.grad.eq(0).all() for p in head.parameters())


def test_positives_are_found_wherever_they_stand_and_no_more_than_there_is_room_for(masks, samples):
    head = head_of()
    order = torch.tensor([5, 3, 1, 0, 4, 2])
    mixed = RoISamples(*(getattr(samples, name)[:, order] for name in samples.__dataclass_fields__))
    expected = head.losses(look_of(head), samples, masks)["loss_mask"]
    assert torch.allclose(head.losses(look_of(head), mixed, masks)["loss_mask"], expected, atol=1e-6)


def test_masks_of_detections_are_the_sigmoids_of_their_class(monkeypatch):
    head = head_of()
    look = look_of(head)
    boxes = torch.rand(2, 7, 4) * 30
    labels = torch.tensor([[2, 0, 1, 0, 2, -1, -1], [1, -1, -1, -1, -1, -1, -1]])
    found = DetectionBatch(boxes, torch.rand(2, 7), labels, torch.zeros(2, dtype=torch.bool))
    expected = torch.zeros(2, 7, 14, 14)
    for b, d in (labels >= 0).nonzero().tolist():
        logits = look(boxes[b : b + 1, d : d + 1], torch.ones(1, 1))
        expected[b, d] = logits[0, 0, labels[b, d]].sigmoid()
    assert torch.allclose(head.predict(look, found), expected, atol=1e-5)
    monkeypatch.setattr("rcnn.heads.mask.ROIS_AT_ONCE", 2)
    assert torch.allclose(head.predict(look, found), expected, atol=1e-5), "in parts as well"


def test_the_last_layer_stays_in_float32_under_bf16():
    head = head_of()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(torch.randn(2, CHANNELS, 7, 7))
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 0.9 * logits.numel(), "not of eight bits"


def test_the_layers_are_those_of_the_paper():
    head = MaskHead(256, 80, MaskHeadOptions(), most=128)
    widths = [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in head.layers[::2]]
    assert widths == [(256, 256, (3, 3))] * 4 + [(256, 256, (2, 2))]
    assert head(torch.zeros(1, 256, 14, 14)).shape == (1, 80, 28, 28)
    c4 = MaskHead(2048, 80, MaskHeadOptions(), most=16, own_layers=False)
    assert c4(torch.zeros(1, 2048, 7, 7)).shape == (1, 80, 14, 14)


def test_a_map_for_the_background_and_norms_leave_the_maps_of_classes_where_they_are():
    head = head_of(background_slot=True, norm="frozen")
    assert [type(layer).__name__ for layer in head.layers[:3]] == ["FoldedConv2d", "FrozenBatchNorm", "ReLU"]
    logits = head(torch.randn(2, CHANNELS, 7, 7))
    assert logits.shape == (2, CLASSES + 1, 14, 14)
    labels = torch.tensor([[0, CLASSES - 1]])
    chosen = head._of_class(logits[None], labels)
    assert torch.equal(chosen[0], torch.stack((logits[0, 0], logits[1, CLASSES - 1])))
