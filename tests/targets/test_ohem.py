"""Online hard example mining against loops over images and boxes, in each published form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.boxes import iou
from rcnn.targets import ohem

CLASSES = 3


def some_rois(seed, images=3, boxes=40, ties=False):
    """Losses, boxes, labels (CLASSES is background), positive and used, all [images, boxes, …]."""
    rng = torch.Generator().manual_seed(seed)
    losses = torch.rand(images, boxes, generator=rng) * 4
    if ties:
        losses = losses.round()
    corner = torch.rand(images, boxes, 2, generator=rng) * 30
    corners = torch.cat((corner, corner + 10 + torch.rand(images, boxes, 2, generator=rng) * 20), -1)
    labels = torch.randint(0, CLASSES + 1, (images, boxes), generator=rng)
    used = torch.rand(images, boxes, generator=rng) < 0.8
    return losses, corners, labels, labels < CLASSES, used


def chosen(samples):
    """For each image the numbers of the chosen boxes, in order."""
    return [index[used].tolist() for index, used in zip(samples.index, samples.used, strict=True)]


def hardest_first(losses, members):
    """The members, the highest loss first, the first of equals first."""
    return sorted(members, key=lambda n: -losses[n].item())


def slow_rfcn(losses, used, count):
    """Dai et al. 2016: sort the RoIs of an image by loss, keep the first B."""
    return [
        hardest_first(row, [n for n in range(len(row)) if using[n]])[:count]
        for row, using in zip(losses, used, strict=True)
    ]


def slow_fraction(losses, positive, used, count, fraction):
    """Hard positives up to their share, then hard negatives for the rest."""
    picked = []
    for row, objects, using in zip(losses, positive, used, strict=True):
        count = min(count, len(row))
        positives = hardest_first(row, [n for n in range(len(row)) if using[n] and objects[n]])[: int(count * fraction)]
        negatives = hardest_first(row, [n for n in range(len(row)) if using[n] and not objects[n]])
        picked.append(positives + negatives[: count - len(positives)])
    return picked


def slow_shrivastava(losses, boxes, labels, used, count, threshold):
    """NMS by loss, image by image and class by class; then the hardest of the batch."""
    survivors = []
    for b in range(len(losses)):
        for label in range(CLASSES + 1):
            members = [n for n in range(losses.shape[1]) if used[b, n] and labels[b, n] == label]
            kept = []
            for n in hardest_first(losses[b], members):
                if all(iou(boxes[b, n : n + 1], boxes[b, m : m + 1]).item() <= threshold for m in kept):
                    kept.append(n)
            survivors += [(b, n) for n in kept]
    survivors.sort(key=lambda place: (-losses[place].item(), place))
    survivors = survivors[: count * len(losses)]
    return [[n for image, n in survivors if image == b] for b in range(len(losses))]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_rfcns_form_takes_the_highest_losses_of_each_image(seed, count, ties):
    losses, _, _, positive, used = some_rois(seed, ties=ties)
    samples = ohem.hardest(losses, positive, used, count)
    assert chosen(samples) == slow_rfcn(losses, used, count)
    assert samples.index.shape == (3, min(count, 40))
    assert torch.equal(samples.positive, positive.gather(1, samples.index) & samples.used)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans())
def test_the_form_with_a_fraction_takes_the_hardest_of_each_kind(seed, count, fraction, ties):
    losses, _, _, positive, used = some_rois(seed, ties=ties)
    samples = ohem.hardest_by_fraction(losses, positive, used, count, fraction)
    assert chosen(samples) == slow_fraction(losses, positive, used, count, fraction)
    assert torch.equal(samples.positive, positive.gather(1, samples.index) & samples.used)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([0.2, 0.7]), st.booleans())
def test_shrivastavas_form_takes_the_highest_losses_of_the_batch_that_survive_nms(seed, count, threshold, ties):
    losses, boxes, labels, positive, used = some_rois(seed, boxes=25, ties=ties)
    samples = ohem.hardest_apart(losses, boxes, labels, positive, used, count, threshold)
    assert chosen(samples) == slow_shrivastava(losses, boxes, labels, used, count, threshold)
    assert int(samples.used.sum()) <= count * 3
    assert torch.equal(samples.positive, positive.gather(1, samples.index) & samples.used)


def test_one_hard_image_may_take_all_of_the_batch():
    losses, boxes, labels, positive, used = some_rois(0, images=2)
    losses[0] += 10
    samples = ohem.hardest_apart(losses, boxes, labels, positive, used, 8, 0.99)
    assert samples.used.sum(1).tolist() == [16, 0]


@pytest.mark.parametrize("form", ["rfcn", "fraction", "shrivastava"])
def test_images_without_any_box_to_choose_choose_none(form):
    losses, boxes, labels, positive, used = some_rois(0)
    used[1] = False
    run = {
        "rfcn": lambda: ohem.hardest(losses, positive, used, 8),
        "fraction": lambda: ohem.hardest_by_fraction(losses, positive, used, 8, 0.25),
        "shrivastava": lambda: ohem.hardest_apart(losses, boxes, labels, positive, used, 8, 0.7),
    }
    samples = run[form]()
    assert not samples.used[1].any()
    assert not samples.positive[1].any()
    assert samples.used[0].any()
