import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.targets import Assignment, sample, take


def assignment_of(positive, negative):
    return Assignment(positive, negative, torch.zeros_like(positive, dtype=torch.long), positive.float())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_as_many_positives_as_allowed_then_as_many_negatives_as_fit(seed, boxes, count, fraction):
    rng = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 3, (3, boxes), generator=rng)
    drawn = sample(assignment_of(kind == 1, kind == 2), count, fraction, rng)
    slots = min(count, boxes)
    assert drawn.index.shape == (3, slots)
    for b in range(3):
        chosen = drawn.index[b][drawn.used[b]].tolist()
        assert len(set(chosen)) == len(chosen), "a box is drawn once"
        positives = min(int((kind[b] == 1).sum()), int(slots * fraction))
        negatives = min(int((kind[b] == 2).sum()), slots - positives)
        assert int(drawn.positive[b].sum()) == positives
        assert int((drawn.used[b] & ~drawn.positive[b]).sum()) == negatives
        assert kind[b][drawn.index[b][drawn.positive[b]]].eq(1).all()
        assert kind[b][drawn.index[b][drawn.used[b] & ~drawn.positive[b]]].eq(2).all()
        assert drawn.used[b].tolist() == sorted(drawn.used[b].tolist(), reverse=True), "unused places come last"


def test_every_candidate_has_the_same_chance():
    positive = torch.zeros(1, 20, dtype=torch.bool)
    positive[:, :10] = True
    rng = torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(2000):
        drawn = sample(assignment_of(positive, ~positive), 8, 0.25, rng)
        counts[drawn.index[0]] += 1
    assert counts[:10].numpy() == pytest.approx([400] * 10, rel=0.2)
    assert counts[10:].numpy() == pytest.approx([1200] * 10, rel=0.1)


def test_the_generator_decides():
    positive = torch.rand(2, 100) > 0.5
    both = [
        sample(assignment_of(positive, ~positive), 16, 0.5, torch.Generator().manual_seed(3)).index for _ in range(2)
    ]
    assert torch.equal(*both)


def test_take_gathers_rows_of_each_image():
    values = torch.arange(24.0).reshape(2, 3, 4)
    index = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(take(values, index), torch.stack((values[0, [2, 0]], values[1, [1, 1]])))
    assert torch.equal(take(values[..., 0], index), torch.stack((values[0, [2, 0], 0], values[1, [1, 1], 0])))
