"""Mining hard examples within a second stage: what is looked at, what is learnt from, and by which loss."""

import pytest
import torch

from rcnn.heads import BoxHead, BoxHeadOptions, BoxOutput, SharedFC
from rcnn.heads.roi_head import RoISamples
from rcnn.structures import GroundTruth, ImageBatch, Proposals

CLASSES = 3
FORMS = ["shrivastava", "rfcn", "fraction"]


def head_of(**options):
    torch.manual_seed(0)
    trunk = SharedFC(4, (5,))
    return BoxHead(trunk, trunk.channels, CLASSES, BoxHeadOptions(init_std=(1.0, 1.0), **options))


def some_proposals(images=2, count=30):
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(images, count, 2, generator=rng) * 60
    boxes = torch.cat((corner, corner + 20 + torch.rand(images, count, 2, generator=rng) * 20), -1)
    valid = torch.ones(images, count, dtype=torch.bool)
    valid[0, -5:] = False
    truth = GroundTruth(boxes[:, :3] + 2, torch.tensor([[0, 1, 2]] * images), torch.zeros(images, 3).bool())
    return Proposals(boxes, torch.ones(images, count), valid), truth


def look_of(head, seen=None):
    """A second stage that pools the corners of the boxes themselves."""

    def look(boxes, valid):
        if seen is not None:
            seen.append((boxes, valid, torch.is_grad_enabled()))
        return head((boxes / 50 - 1)[..., None, None])

    return look


def slow_losses(head, output, samples, b, n):
    """The loss of the class and that of the box of one RoI."""
    cls = -output.logits[b, n].log_softmax(-1)[samples.labels[b, n]].item()
    if not samples.positive[b, n]:
        return cls, 0.0
    x = (output.deltas[b, n, samples.labels[b, n]] - samples.goals[b, n]).abs()
    beta = head.options.loss_beta
    return cls, torch.where(x < beta, 0.5 * x * x / beta, x - 0.5 * beta).sum().item() * head.options.box_weight


@pytest.mark.parametrize("form", FORMS)
def test_mined_rois_are_those_of_the_highest_loss(form):
    head = head_of(ohem=form, samples=6, ohem_nms=1.0, box_weight=2.0)
    proposals, truth = some_proposals()
    everything = head.draw(proposals, truth, torch.Generator().manual_seed(0))
    assert everything.used.sum(1).tolist() == [25 + 3, 30 + 3], "all of them, and the ground truth"
    output = look_of(head)(everything.boxes, everything.used)
    mined = head.mine(output, everything)
    rows = []
    for b in range(2):
        for n in range(everything.used.shape[1]):
            if everything.used[b, n]:
                cls, box = slow_losses(head, output, everything, b, n)
                rows.append((cls if form == "fraction" else cls + box, b, n))
    rows.sort(reverse=True)
    if form == "shrivastava":
        expected = rows[:12]
    elif form == "rfcn":
        expected = [row for b in range(2) for row in [r for r in rows if r[1] == b][:6]]
    else:  # a quarter of six is one
        of = [[r for r in rows if r[1] == b and everything.positive[b, r[2]] == k] for b in (0, 1) for k in (1, 0)]
        expected = of[0][:1] + of[1][:5] + of[2][:1] + of[3][:5]
    boxes = {
        tuple(mined.boxes[b, n].tolist()) for b in range(2) for n in range(mined.used.shape[1]) if mined.used[b, n]
    }
    assert boxes == {tuple(everything.boxes[b, n].tolist()) for _, b, n in expected}
    for b in range(2):  # and each carries its label and goal along
        for n in range(mined.used.shape[1]):
            same = (everything.boxes[b] == mined.boxes[b, n]).all(-1) & everything.used[b]
            if mined.used[b, n]:
                assert mined.labels[b, n] in everything.labels[b][same]
                assert (everything.goals[b][same] == mined.goals[b, n]).all(-1).any()


@pytest.mark.parametrize("form", FORMS)
def test_all_are_looked_at_without_gradient_and_the_chosen_once_more_with_it(form):
    head, seen = head_of(ohem=form, samples=4), []
    proposals, truth = some_proposals()
    losses = head.learn(look_of(head, seen), proposals, truth, torch.Generator().manual_seed(0))
    (every, _, graded), (few, used, graded_then) = seen
    assert (graded, graded_then) == (False, True)
    assert every.shape[1] == 33
    assert few.shape[1] == (8 if form == "shrivastava" else 4)
    assert int(used.sum()) == 8
    (losses["loss_cls"] + losses["loss_box"]).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_rfcns_box_loss_is_divided_by_a_fixed_number():
    """Its code divides by 128 however few RoIs there are, the loss of the class by those that count."""
    samples = RoISamples(
        torch.rand(2, 4, 4),
        torch.tensor([[True] * 3 + [False], [True, False, False, False]]),
        torch.tensor([[True, False, False, False]] * 2),
        torch.tensor([[0, 3, 3, 3]] * 2),
        torch.ones(2, 4, 4),
        torch.zeros(2, 4, dtype=torch.int64),
    )
    output = BoxOutput(torch.zeros(2, 4, CLASSES + 1), torch.zeros(2, 4, CLASSES, 4))
    fixed = head_of(ohem="rfcn", samples=128, loss_beta=1.0).losses(output, samples)
    counted = head_of(ohem="fraction", samples=128, loss_beta=1.0).losses(output, samples)
    assert counted["loss_box"].item() == pytest.approx(2 * 4 * 0.5 / 4)
    assert fixed["loss_box"].item() == pytest.approx(2 * 4 * 0.5 / (2 * 128))
    assert fixed["loss_cls"].item() == counted["loss_cls"].item() == pytest.approx(torch.tensor(4.0).log().item())


def test_mining_looks_at_background_of_any_overlap():
    """Fast R-CNN's lower end of 0.1 was a heuristic for hard examples, which mining replaces."""
    proposals, truth = some_proposals()
    options = {"negative": (0.1, 0.5), "samples": 40}
    drawn = head_of(**options).draw(proposals, truth)
    mined = head_of(ohem="rfcn", **options).draw(proposals, truth)
    assert int(drawn.used.sum()) < int(mined.used.sum()) == 25 + 30 + 6


def test_inclusive_regions_are_coded_by_sides_with_one_pixel_more():
    head = head_of(inclusive=True, coder_weights=(1.0, 1.0, 1.0, 1.0))
    region, delta = torch.tensor([10.0, 20, 40, 60]), torch.tensor([0.1, -0.2, 0.3, 0.1])
    width, height = 40 - 10 + 1, 60 - 20 + 1
    x, y = 10 + 0.5 * width + 0.1 * width, 20 + 0.5 * height - 0.2 * height
    half_width, half_height = 0.5 * width * torch.tensor(0.3).exp(), 0.5 * height * torch.tensor(0.1).exp()
    expected = torch.stack((x - half_width, y - half_height, x + half_width, y + half_height))
    torch.testing.assert_close(head.decode(delta, region), expected)
    assert not torch.allclose(head_of(coder_weights=(1.0, 1.0, 1.0, 1.0)).decode(delta, region), expected)


@pytest.mark.parametrize("inclusive", [False, True])
def test_what_is_learnt_of_a_region_decodes_to_its_object(inclusive):
    head = head_of(inclusive=inclusive, samples=16, positive_fraction=1.0)
    proposals, truth = some_proposals(images=1)
    samples = head.draw(proposals, truth, torch.Generator().manual_seed(0))
    boxes = head.decode(samples.goals, samples.boxes)[0]
    objects = truth.boxes[0, samples.matched[0]]
    positive = samples.positive[0]
    assert positive.sum() >= 3
    torch.testing.assert_close(boxes[positive], objects[positive], rtol=0, atol=1e-4)
    appended = (samples.goals[0].abs().amax(-1) < 1e-5) & positive  # the objects themselves ask for no change
    assert appended.sum() >= 3


def test_inclusive_detections_end_at_the_last_pixel():
    head = head_of(inclusive=True, score=0.0)
    proposals = Proposals(torch.tensor([[[5.0, 5, 200, 200]]]), torch.ones(1, 1), torch.ones(1, 1).bool())
    output = BoxOutput(torch.tensor([[[9.0, 0, 0, 0]]]), torch.zeros(1, 1, 3, 4))
    images = ImageBatch(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.tensor([[100.0, 120]]))
    found = head.detect(output, proposals, images, score=None, capacity=10)
    assert found.boxes[0, 0].tolist() == [5, 5, 119, 99]
