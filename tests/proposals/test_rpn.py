import pytest
import torch
from torch.nn import functional as F

from rcnn import boxes as box_ops
from rcnn.boxes import BoxCoder
from rcnn.errors import UserError
from rcnn.proposals import RPN, AnchorOptions, Anchors, RPNOptions
from rcnn.proposals.rpn import RPNHead, RPNOutput
from rcnn.structures import GroundTruth, ImageBatch


def images_of(*sizes, height=64, width=96):
    return ImageBatch(
        torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8), torch.tensor(sizes, dtype=torch.float32)
    )


def rpn_of(**options):
    torch.manual_seed(0)
    anchors = Anchors(AnchorOptions(((16.0,), (32.0,)), (0.5, 1.0, 2.0)), [8, 16])
    return RPN(16, anchors, RPNOptions(**options))


def features_of(batch, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 16, 8, 12, generator=rng), torch.randn(batch, 16, 4, 6, generator=rng)]


def noisy(rpn):
    """The RPN with larger weights, so that scores and deltas differ from anchor to anchor."""
    rng = torch.Generator().manual_seed(5)
    for parameter in rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=rng)
    return rpn


def slow_nms(boxes, scores, threshold):
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(box_ops.iou(boxes[i : i + 1], boxes[j : j + 1]).item() <= threshold for j in kept):
            kept.append(i)
    return kept


def slow_propose(rpn, output, image, size, pre_nms, post_nms):
    """Ren et al. 2015: one image, one level at a time, with lists of whatever length."""
    boxes, scores = [], []
    first = 0
    for logits, deltas, anchors in zip(output.logits, output.deltas, output.anchors, strict=True):
        eligible = output.eligible[image, first : first + len(anchors)].nonzero().flatten()
        first += len(anchors)
        order = eligible[logits[image, eligible].argsort(descending=True, stable=True)][:pre_nms]
        decoded = box_ops.clip(BoxCoder().decode(deltas[image, order], anchors[order])[None], size[None])[0]
        score = logits[image, order]
        big = ((decoded[:, 2] - decoded[:, 0]) >= rpn.options.min_size) & (
            (decoded[:, 3] - decoded[:, 1]) >= rpn.options.min_size
        )
        decoded, score = decoded[big], score[big]
        kept = slow_nms(decoded, score, rpn.options.nms)
        boxes.append(decoded[kept])
        scores.append(score[kept])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    order = scores.argsort(descending=True, stable=True)[:post_nms]
    return boxes[order], scores[order].sigmoid()


@pytest.mark.parametrize("training", [True, False])
def test_proposals_equal_those_made_one_image_and_level_at_a_time(training):
    rpn = noisy(rpn_of(pre_nms=(60, 40), post_nms=(50, 30), min_size=4.0))
    images = images_of((64, 96), (40, 50))
    output = rpn(features_of(2), images)
    proposals = rpn.propose(output, images, training=training)
    pre, post = (60, 50) if training else (40, 30)
    for b in range(2):
        boxes, scores = slow_propose(rpn, output, b, images.sizes[b], pre, post)
        assert int(proposals.valid[b].sum()) == len(boxes)
        assert torch.allclose(proposals.boxes[b, : len(boxes)], boxes, atol=1e-4)
        assert torch.allclose(proposals.scores[b, : len(boxes)], scores, atol=1e-6)
        assert proposals.boxes[b, len(boxes) :].eq(0).all()


def test_proposals_never_reach_into_the_padding():
    rpn = noisy(rpn_of())
    images = images_of((33, 41))
    proposals = rpn.propose(rpn(features_of(1), images), images, training=False)
    assert proposals.valid.any()
    assert proposals.boxes[..., 2].max() <= 41
    assert proposals.boxes[..., 3].max() <= 33


def test_without_nms_in_training_every_good_box_stays():
    options = {"pre_nms": (200, 200), "post_nms": (200, 200)}
    images = images_of((64, 96))
    options["nms"] = 0.3
    with_nms, without = noisy(rpn_of(**options)), noisy(rpn_of(**options, nms_training=False))
    output = with_nms(features_of(1), images)
    assert (
        without.propose(output, images, training=True).valid.sum()
        > with_nms.propose(output, images, training=True).valid.sum()
    )
    assert (
        without.propose(output, images, training=False).valid.sum()
        == with_nms.propose(output, images, training=False).valid.sum()
    )


def test_two_logits_an_anchor_score_like_a_softmax_over_them():
    torch.manual_seed(0)
    head = RPNHead(4, 3, RPNOptions(objectness="softmax", init_std=0.5))
    feature = torch.randn(2, 4, 5, 6)
    raw = head.cls_logits(F.relu(head.conv(feature)))  # background channels first, then foreground
    pairs = torch.stack((raw[:, :3], raw[:, 3:]), 2)  # [B, k, 2, H, W]
    expected = pairs.softmax(2)[:, :, 1].permute(0, 2, 3, 1).flatten(1)
    assert torch.allclose(head([feature])[0][0].sigmoid(), expected, atol=1e-6)
    target = torch.randint(0, 2, (2, 90))
    cross_entropy = F.cross_entropy(pairs.permute(0, 3, 4, 1, 2).reshape(-1, 2), target.flatten())
    ours = F.binary_cross_entropy_with_logits(head([feature])[0][0], target.float())
    assert ours.item() == pytest.approx(cross_entropy.item(), rel=1e-5)


def truth_of(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    return GroundTruth(
        boxes, torch.zeros(boxes.shape[:2], dtype=torch.long), torch.zeros(boxes.shape[:2], dtype=torch.bool)
    )


@pytest.mark.parametrize("recipe", ["modern", "classic"])
def test_the_loss_is_equation_1(recipe):
    classic = {"loss_beta": 1.0, "box_weight": 10.0, "box_normaliser": "positions", "border": 0.0}
    rpn = noisy(rpn_of(samples=100_000, positive_fraction=1.0, **(classic if recipe == "classic" else {})))
    images, truth = images_of((64, 80)), truth_of([[10, 10, 40, 30], [50, 20, 75, 60]])
    output = rpn(features_of(1), images)
    losses = rpn.losses(output, images, truth)

    anchors, logits, deltas = torch.cat(output.anchors), torch.cat(output.logits, 1)[0], torch.cat(output.deltas, 1)[0]
    eligible = output.eligible[0].clone()
    if recipe == "classic":
        eligible &= (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= 80) & (anchors[:, 3] <= 64)
    overlap = box_ops.iou(anchors, truth.boxes[0]) * eligible[:, None]
    best = (overlap == overlap.amax(0)) & (overlap > 0)
    positive = ((overlap >= 0.7).any(1) | best.any(1)) & eligible
    negative = (overlap.amax(1) < 0.3) & eligible & ~positive
    cls = box = 0.0
    beta = rpn.options.loss_beta
    for a in (positive | negative).nonzero().flatten().tolist():
        p = logits[a].sigmoid()
        cls -= torch.log(p if positive[a] else 1 - p).item()
        if positive[a]:
            goal = BoxCoder().encode(truth.boxes[0, overlap[a].argmax()], anchors[a])
            x = (deltas[a] - goal).abs()
            box += torch.where(x < beta, 0.5 * x * x / beta, x - 0.5 * beta).sum().item()
    sampled = int((positive | negative).sum())
    positions = 8 * 10 + 4 * 5
    assert losses["loss_rpn_cls"].item() == pytest.approx(cls / sampled, rel=1e-4)
    expected = 10 * box / positions if recipe == "classic" else box / sampled
    assert losses["loss_rpn_box"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"objectness": "softmax"}, {"convs": 3}, {"border": 0.0}])
def test_sampled_anchors_alone_give_the_losses_and_gradients_of_whole_maps(changes):
    """Three images, one without objects, of maps 8 × 12 and 4 × 6 whose edges take part."""
    rpn = noisy(rpn_of(samples=20, **changes)).double()
    images = images_of((64, 96), (50, 70), (64, 96), height=64, width=96)
    boxes = torch.tensor([[[0, 0, 30, 20], [60, 40, 96, 64]], [[5, 8, 60, 50], [0] * 4], [[0] * 4] * 2])
    labels = torch.tensor([[0, 0], [0, -1], [-1, -1]])
    truth = GroundTruth(boxes.float(), labels, torch.zeros(3, 2, dtype=torch.bool))
    maps = [f.double().requires_grad_() for f in features_of(3)]
    found = []
    for sampled in (False, True):
        output = rpn(maps, images, sampled=sampled)
        assert sampled is not output.logits[0].requires_grad
        losses = rpn.losses(output, images, truth, torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(2 * losses["loss_rpn_cls"] + losses["loss_rpn_box"], [*maps, *rpn.parameters()])
        found.append((*losses.values(), *gradients))
    assert found[0][1] > 0
    for whole, few in zip(*found, strict=True):
        assert torch.allclose(whole, few, rtol=1e-9, atol=1e-12)


def test_small_maps_are_read_once():
    rpn, images = rpn_of(), images_of((64, 96))
    assert rpn(features_of(1), images, sampled=True).logits[0].requires_grad


def test_at_most_256_anchors_an_image_and_half_of_them_positive(monkeypatch):
    from rcnn import targets

    drawn = []
    real = targets.sample
    monkeypatch.setattr(targets, "sample", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1])
    rpn = rpn_of()
    many = [[x, y, x + 16, y + 16] for x in range(0, 240, 4) for y in range(0, 24, 4)]
    images = images_of((128, 256), height=128, width=256)
    rng = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 16, 16, 32, generator=rng), torch.randn(1, 16, 8, 16, generator=rng)]
    rpn.losses(rpn(features, images), images, truth_of(many))
    assert int(drawn[0].used.sum()) == 256
    assert int(drawn[0].positive.sum()) == 128


def test_an_image_without_objects_trains_every_parameter():
    rpn = rpn_of()
    images = images_of((64, 96))
    empty = GroundTruth(torch.zeros(1, 1, 4), torch.full((1, 1), -1), torch.zeros(1, 1, dtype=torch.bool))
    losses = rpn.losses(rpn(features_of(1), images), images, empty)
    assert losses["loss_rpn_box"].item() == 0
    assert losses["loss_rpn_cls"].item() > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())


def test_padding_changes_neither_loss_nor_proposals():
    """The same image with more padding around it: maps grow, nothing else may change."""
    rpn = noisy(rpn_of(samples=10_000, positive_fraction=1.0, box_normaliser="positions"))
    small, truth = images_of((64, 96)), truth_of([[10, 10, 40, 30]])
    large = images_of((64, 96), height=96, width=128)
    features = features_of(1)
    wide = [F.pad(f, (0, p, 0, p)) for f, p in zip(features, (4, 2), strict=True)]
    a, b = rpn(features, small), rpn(wide, large)
    # A 3×3 convolution sees zeros beyond the image in both.
    for name, value in rpn.losses(a, small, truth).items():
        assert value.item() == pytest.approx(rpn.losses(b, large, truth)[name].item(), rel=1e-5), name
    p, q = rpn.propose(a, small, training=True), rpn.propose(b, large, training=True)
    count = int(p.valid.sum())
    assert count == int(q.valid.sum())
    assert torch.allclose(p.boxes[0, :count], q.boxes[0, :count], atol=1e-4)


def test_switching_regression_off_proposes_the_anchors_themselves():
    rpn = noisy(rpn_of(regression=False, nms=None))
    images = images_of((64, 96))
    output = rpn(features_of(1), images)
    assert isinstance(output, RPNOutput)
    clipped = box_ops.clip(torch.cat(output.anchors)[None], images.sizes)[0]
    for box in rpn.propose(output, images, training=False).boxes[0]:
        assert (clipped - box).abs().amax(1).min() < 1e-4


@pytest.mark.parametrize("objectness", ["sigmoid", "softmax"])
def test_the_last_layers_are_float32_where_the_network_is_bf16(objectness):
    head, feature = rpn_of(objectness=objectness, init_std=0.2).head, features_of(1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = head([feature])
        hidden = F.relu(head.conv(feature))
    assert hidden.dtype == torch.bfloat16
    score = F.conv2d(hidden.float(), head.cls_logits.weight, head.cls_logits.bias)
    if objectness == "softmax":
        score = score[:, 3:] - score[:, :3]
    torch.testing.assert_close(logits[0], score.permute(0, 2, 3, 1).flatten(1))
    delta = F.conv2d(hidden.float(), head.bbox_pred.weight, head.bbox_pred.bias)
    torch.testing.assert_close(deltas[0], delta.permute(0, 2, 3, 1).reshape(1, -1, 4))


def inclusive_iou(a, b):
    """Overlap of two boxes [4] whose right and bottom are their last pixels (Fast R-CNN's release)."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (sum(areas) - shared)


def test_inclusive_proposals_are_cut_at_the_last_pixel_and_measured_with_one_more():
    images = images_of((60, 90))
    rpn = noisy(rpn_of(inclusive=True, min_size=12.0, nms=0.4, pre_nms=(60, 60), post_nms=(40, 40)))
    output = rpn(features_of(1), images)
    proposals = rpn.propose(output, images, training=False)
    expected, first = [], 0
    for logits, deltas, anchors in zip(output.logits, output.deltas, output.anchors, strict=True):
        inside = output.eligible[0, first : first + len(anchors)].nonzero().flatten()
        first += len(anchors)
        order = inside[logits[0, inside].argsort(descending=True, stable=True)][:60]
        kept = []
        for anchor, delta, logit in zip(anchors[order].tolist(), deltas[0, order], logits[0, order], strict=True):
            x1, y1, x2, y2 = BoxCoder().decode(delta, torch.tensor(anchor)).tolist()
            box = [max(x1, 0), max(y1, 0), min(x2, 89), min(y2, 59)]
            large = box[2] - box[0] + 1 >= 12 and box[3] - box[1] + 1 >= 12
            if large and all(inclusive_iou(box, other) <= 0.4 for other, _ in kept):
                kept.append((box, logit.item()))
        expected += kept
    expected.sort(key=lambda pair: -pair[1])
    found = proposals.boxes[0][proposals.valid[0]]
    torch.testing.assert_close(found, torch.tensor([box for box, _ in expected[:40]]), rtol=0, atol=1e-3)
    plain = noisy(rpn_of(min_size=12.0, nms=0.4, pre_nms=(60, 60), post_nms=(40, 40)))
    assert plain.propose(output, images, training=False).boxes[..., 2].max() == 90


def test_more_convolutions_come_before_the_siblings():
    from torchvision.models.detection.rpn import RPNHead as Theirs

    torch.manual_seed(0)
    theirs, ours = Theirs(8, 3, conv_depth=2), RPNHead(8, 3, RPNOptions(convs=2))
    names = {"conv": "conv.0.0", "deeper.0": "conv.1.0", "cls_logits": "cls_logits", "bbox_pred": "bbox_pred"}
    state = theirs.state_dict()
    ours.load_state_dict({f"{a}.{kind}": state[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")})
    x = torch.randn(2, 8, 5, 6)
    logits, deltas = ours([x])
    wanted, moves = theirs([x])
    assert torch.allclose(logits[0], wanted[0].permute(0, 2, 3, 1).flatten(1), atol=1e-6)
    assert torch.allclose(deltas[0], moves[0].permute(0, 2, 3, 1).reshape(2, -1, 4), atol=1e-6)
    with pytest.raises(UserError, match="convs = 0"):
        RPNOptions(convs=0)
