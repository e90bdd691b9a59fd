import pytest
import torch

from rcnn import boxes as box_ops
from rcnn.boxes import BoxCoder
from rcnn.heads import BoxHead, BoxHeadOptions, BoxOutput, SharedFC, box_trunk
from rcnn.heads.roi_head import RoISamples
from rcnn.structures import GroundTruth, ImageBatch, Proposals

CLASSES = 3


def head_of(**options):
    torch.manual_seed(0)
    trunk = SharedFC(2 * 2 * 2, (5,))
    return BoxHead(trunk, trunk.channels, CLASSES, BoxHeadOptions(**options))


def images_of(batch=1, height=100, width=120):
    return ImageBatch(
        torch.zeros(batch, 3, 128, 128, dtype=torch.uint8), torch.tensor([[height, width]] * batch, dtype=torch.float32)
    )


def random_rois(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, count, 2, generator=rng) * 60
    boxes = torch.cat((corner, corner + 4 + torch.rand(1, count, 2, generator=rng) * 40), -1)
    return Proposals(boxes, torch.rand(1, count, generator=rng), torch.ones(1, count, dtype=torch.bool))


@pytest.mark.parametrize("regression", ["per-class", "class-agnostic"])
def test_the_loss_is_the_multi_task_loss_of_fast_rcnn(regression):
    rng = torch.Generator().manual_seed(1)
    head = head_of(regression=regression, loss_beta=1.0, box_weight=2.0)
    slots = CLASSES if regression == "per-class" else 1
    output = BoxOutput(torch.randn(2, 4, CLASSES + 1, generator=rng), torch.randn(2, 4, slots, 4, generator=rng) * 2)
    labels = torch.tensor([[0, 2, 3, 3], [1, 3, 3, 3]])
    positive = labels < CLASSES
    used = torch.tensor([[True] * 4, [True, True, False, False]])
    goals = torch.randn(2, 4, 4, generator=rng)
    losses = head.losses(output, RoISamples(torch.zeros(2, 4, 4), used, positive, labels, goals, labels))
    cls = box = 0.0
    for b in range(2):
        for s in range(4):
            if not used[b, s]:
                continue
            cls -= output.logits[b, s].softmax(-1)[labels[b, s]].log().item()
            if positive[b, s]:
                x = (output.deltas[b, s, labels[b, s] if slots > 1 else 0] - goals[b, s]).abs()
                box += torch.where(x < 1, 0.5 * x * x, x - 0.5).sum().item()
    assert losses["loss_cls"].item() == pytest.approx(cls / 6, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(2 * box / 6, rel=1e-5)
    assert losses["foreground_rois"].item() == pytest.approx(3 / 2)


def test_drawn_rois_carry_the_label_and_deltas_of_their_ground_truth():
    truth = GroundTruth(
        torch.tensor([[[10.0, 10, 50, 50], [60, 60, 90, 95], [0, 0, 0, 0]]]),
        torch.tensor([[2, 0, -1]]),
        torch.zeros(1, 3).bool(),
    )
    head = head_of(samples=64, positive_fraction=0.25)
    samples = head.draw(random_rois(200), truth, torch.Generator().manual_seed(0))
    overlap = box_ops.iou(samples.boxes[0], truth.boxes[0])
    assert samples.positive.any()
    for s in range(64):
        best, which = overlap[s].max(0)
        if samples.positive[0, s]:
            assert best >= 0.5
            assert samples.labels[0, s] == truth.labels[0, which]
            coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
            assert torch.allclose(
                samples.goals[0, s], coder.encode(truth.boxes[0, which], samples.boxes[0, s]), atol=1e-5
            )
        else:
            assert best < 0.5
            assert samples.labels[0, s] == CLASSES
    assert int(samples.positive.sum()) <= 16


def test_ground_truth_joins_the_proposals():
    truth = GroundTruth(torch.tensor([[[10.0, 10, 50, 50]]]), torch.tensor([[1]]), torch.zeros(1, 1).bool())
    nothing = Proposals(torch.zeros(1, 3, 4), torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert head_of().draw(nothing, truth).positive.sum() == 1
    assert head_of(append_truth=False).draw(nothing, truth).used.sum() == 0


def test_fast_rcnn_alone_takes_no_background_below_a_tenth():
    truth = GroundTruth(torch.tensor([[[10.0, 10, 50, 50]]]), torch.tensor([[1]]), torch.zeros(1, 1).bool())
    samples = head_of(negative=(0.1, 0.5)).draw(random_rois(300), truth)
    background = samples.boxes[samples.used & ~samples.positive]
    assert len(background)
    assert (box_ops.iou(background, truth.boxes[0]) >= 0.1).all()


def slow_detect(head, output, proposals, size, score):
    """One class at a time, as the papers' code does."""
    rows = []
    probabilities = output.logits[0].softmax(-1)
    for label in range(CLASSES):
        slot = label if output.deltas.shape[2] > 1 else 0
        boxes = head.coder.decode(output.deltas[0, :, slot], proposals.boxes[0])
        boxes = box_ops.clip(boxes[None], size[None])[0]
        candidates = [
            (probabilities[n, label].item(), boxes[n]) for n in range(boxes.shape[0]) if proposals.valid[0, n]
        ]
        candidates = sorted((c for c in candidates if c[0] > score), key=lambda c: -c[0])
        kept = []
        for value, box in candidates:
            if all(box_ops.iou(box[None], other[None]).item() <= head.options.nms for _, other in kept):
                kept.append((value, box))
        rows += [(value, label, box) for value, box in kept]
    return sorted(rows, key=lambda row: -row[0])[: head.options.detections]


@pytest.mark.parametrize("regression", ["per-class", "class-agnostic", "none"])
def test_detections_equal_those_made_one_class_at_a_time(regression):
    head = head_of(regression=regression, detections=20)
    rng = torch.Generator().manual_seed(2)
    slots = CLASSES if regression == "per-class" else 1
    deltas = torch.randn(1, 60, slots, 4, generator=rng) * (0 if regression == "none" else 1)
    output = BoxOutput(torch.randn(1, 60, CLASSES + 1, generator=rng) * 2, deltas)
    proposals, images = random_rois(60), images_of()
    proposals.valid[0, 50:] = False
    found = head.detect(output, proposals, images, score=None, capacity=1000)
    expected = slow_detect(head, output, proposals, images.sizes[0], 0.05)
    assert int(found.valid.sum()) == len(expected)
    for d, (value, label, box) in enumerate(expected):
        assert found.scores[0, d].item() == pytest.approx(value, rel=1e-5)
        assert found.labels[0, d] == label
        assert torch.allclose(found.boxes[0, d], box, atol=1e-3)


def test_too_small_a_capacity_is_flagged_never_silent():
    head = head_of()
    output = BoxOutput(torch.zeros(1, 60, CLASSES + 1), torch.zeros(1, 60, CLASSES, 4))
    few = head.detect(output, random_rois(60), images_of(), score=None, capacity=50)
    enough = head.detect(output, random_rois(60), images_of(), score=None, capacity=180)
    assert few.overflow.tolist() == [True]
    assert enough.overflow.tolist() == [False]


def test_a_pooled_batch_gives_logits_for_k_classes_and_background():
    output = head_of()(torch.randn(2, 7, 2, 2, 2))
    assert output.logits.shape == (2, 7, CLASSES + 1)
    assert output.deltas.shape == (2, 7, CLASSES, 4)
    assert head_of(regression="class-agnostic")(torch.randn(2, 7, 2, 2, 2)).deltas.shape == (2, 7, 1, 4)
    assert head_of(regression="none")(torch.randn(2, 7, 2, 2, 2)).deltas.eq(0).all()


@pytest.mark.parametrize("regression", ["per-class", "class-agnostic"])
def test_the_last_layers_are_float32_where_the_network_is_bf16(regression):
    head, features = head_of(regression=regression, init_std=(0.5, 0.5)), torch.randn(2, 3, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features)
        hidden = head.trunk(features.flatten(0, 1))
    assert hidden.dtype == torch.bfloat16
    for found, layer in ((output.logits, head.cls_score), (output.deltas, head.bbox_pred)):
        expected = torch.nn.functional.linear(hidden.float(), layer.weight, layer.bias)
        torch.testing.assert_close(found.flatten(), expected.flatten())


def test_a_slot_for_the_background_changes_nothing_that_is_said():
    plain, slotted = head_of(), head_of(background_slot=True)
    state = dict(plain.state_dict())
    for key in ("bbox_pred.weight", "bbox_pred.bias"):
        state[key] = torch.cat((state[key], torch.randn(4, *state[key].shape[1:])))
    slotted.load_state_dict(state)
    features = torch.randn(1, 6, 2, 2, 2)
    ours, theirs = slotted(features), plain(features)
    assert torch.equal(ours.logits, theirs.logits)
    assert ours.deltas.shape == (1, 6, CLASSES, 4)
    assert torch.allclose(ours.deltas, theirs.deltas)


def test_convolutions_before_the_layers_are_those_of_torchvisions_second_version():
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

    from rcnn import backbones

    theirs = FastRCNNConvFCHead((4, 7, 7), [6, 6], [5], norm_layer=torch.nn.BatchNorm2d).eval()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    ours, width, side = box_trunk(backbones.create("resnet18-fpn", channels=4), None, (5,), (6, 6), "frozen")
    values = [value for key, value in theirs.state_dict().items() if "num_batches" not in key]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    assert (width, side) == (5, 7)
    x = torch.randn(3, 4, 7, 7)
    assert torch.allclose(ours.eval()(x), theirs(x), atol=1e-5)
