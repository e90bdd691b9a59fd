import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn import boxes as box_ops
from rcnn.structures import GroundTruth
from rcnn.targets import assign


def truth_of(*images):
    """Padded ground truth of images given as lists of (x1, y1, x2, y2, label, ignore)."""
    most = max(1, *(len(image) for image in images))
    boxes = torch.zeros(len(images), most, 4)
    labels = torch.full((len(images), most), -1)
    ignore = torch.zeros(len(images), most, dtype=torch.bool)
    for row, image in enumerate(images):
        for column, (*box, label, is_ignored) in enumerate(image):
            boxes[row, column] = torch.tensor(box)
            labels[row, column] = label
            ignore[row, column] = is_ignored
    return GroundTruth(boxes, labels, ignore)


def slow_assign(boxes, eligible, truth, positive, negative, best_of_each, ignored=0.5):
    """Ren et al. 2015, section 3.1.2, one image and one box at a time."""
    images, count = eligible.shape
    is_positive = torch.zeros(images, count, dtype=torch.bool)
    is_negative = torch.zeros(images, count, dtype=torch.bool)
    for b in range(images):
        mine = boxes[b if boxes.shape[0] > 1 else 0]
        objects = [g for g in range(truth.labels.shape[1]) if truth.real[b, g]]
        regions = [g for g in range(truth.labels.shape[1]) if truth.ignore[b, g] and truth.labels[b, g] >= 0]
        overlap = box_ops.iou(mine, truth.boxes[b])
        for a in range(count):
            if not eligible[b, a]:
                continue
            most = max((overlap[a, g].item() for g in objects), default=0.0)
            hit = most >= positive
            if best_of_each:
                for g in objects:
                    rivals = [overlap[o, g].item() for o in range(count) if eligible[b, o]]
                    hit |= overlap[a, g].item() == max(rivals) > 0
            is_positive[b, a] = hit
            share = max(
                (box_ops.covered(mine[a : a + 1], truth.boxes[b, g : g + 1]).item() for g in regions), default=0.0
            )
            is_negative[b, a] = not hit and negative[0] <= most < negative[1] and share < ignored
    return is_positive, is_negative


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_assignment_equals_the_rule_applied_box_by_box(seed, best_of_each):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 12, (1, 30, 2), generator=rng).float() * 4
    boxes = torch.cat((corner, corner + torch.randint(1, 8, (1, 30, 2), generator=rng) * 4), -1)
    images = [
        [
            (x, y, x + w, y + h, 1, flag == 0)
            for x, y, w, h, flag in torch.randint(1, 30, (n, 5), generator=rng).tolist()
        ]
        for n in (0, 3, 5)
    ]
    images = [[(*o[:5], bool(i % 3 == 2)) for i, o in enumerate(image)] for image in images]
    truth = truth_of(*images)
    eligible = torch.rand(3, 30, generator=rng) > 0.2
    rules = {"positive": 0.6, "negative": (0.1, 0.4), "best_of_each": best_of_each}
    found = assign(boxes, eligible, truth, **rules)
    positive, negative = slow_assign(boxes, eligible, truth, **rules)
    assert torch.equal(found.positive, positive)
    assert torch.equal(found.negative, negative)
    overlap = box_ops.iou(boxes.expand(3, -1, -1), truth.boxes).masked_fill(~truth.real[:, None], -1)
    for b, a in positive.nonzero().tolist():
        assert overlap[b, a, found.index[b, a]] == overlap[b, a].max()


def test_every_ground_truth_gets_an_anchor():
    anchors = torch.tensor([[[0.0, 0, 10, 10], [100, 100, 110, 110]]])
    truth = truth_of([(0, 0, 4, 3, 0, False), (104, 104, 120, 120, 1, False)])
    found = assign(
        anchors, torch.ones(1, 2, dtype=torch.bool), truth, positive=0.7, negative=(0, 0.3), best_of_each=True
    )
    assert found.positive.tolist() == [[True, True]]
    assert found.index.tolist() == [[0, 1]]


def test_one_ground_truth_may_have_many_anchors_but_an_anchor_has_one():
    anchors = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]])
    truth = truth_of([(0, 0, 10, 10, 0, False), (1, 0, 10, 10, 0, False)])
    found = assign(
        anchors, torch.ones(1, 3, dtype=torch.bool), truth, positive=0.7, negative=(0, 0.3), best_of_each=True
    )
    assert found.positive.tolist() == [[True, True, False]]
    assert found.index[0, :2].tolist() == [0, 0]


def test_an_image_without_objects_is_all_background():
    anchors = torch.rand(1, 50, 4).cumsum(-1)
    found = assign(
        anchors, torch.ones(1, 50, dtype=torch.bool), truth_of([]), positive=0.7, negative=(0.0, 0.3), best_of_each=True
    )
    assert not found.positive.any()
    assert found.negative.all()


def test_background_inside_a_crowd_is_left_out_but_an_object_there_is_not():
    anchors = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [8, 0, 18, 10], [20, 0, 30, 10]]])
    truth = truth_of([(0, 0, 10, 100, 0, True), (0, 0, 10, 9, 0, False)])
    found = assign(
        anchors, torch.ones(1, 4, dtype=torch.bool), truth, positive=0.7, negative=(0, 0.4), best_of_each=False
    )
    assert found.positive.tolist() == [[True, False, False, False]]
    # Half of the second lies in the crowd, a fifth of the third, nothing of the fourth.
    assert found.negative.tolist() == [[False, False, True, True]]


def test_ineligible_boxes_neither_train_nor_compete():
    anchors = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 6]]])
    truth = truth_of([(0, 0, 10, 10, 0, False)])
    found = assign(anchors, torch.tensor([[False, True]]), truth, positive=0.9, negative=(0, 0.3), best_of_each=True)
    assert found.positive.tolist() == [[False, True]]
    assert found.negative.tolist() == [[False, False]]
