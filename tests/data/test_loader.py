"""Batches that depend on (seed, step) alone, whatever the workers, restarts and processes."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.collate import capacity, collate, collate_regions, collate_truths
from rcnn.data.dataset import Truth
from rcnn.data.loader import TrainLoader, eval_batches, grouped
from rcnn.data.seeds import permutation
from rcnn.data.transforms import Augmentation, resize
from rcnn.errors import UserError
from rcnn.structures import Batch

ALL = Augmentation(scale=(0.5, 1.5), photometric=0.3, iou_crop=0.5, zoom_out=0.3)


class Pictures:
    """A data set in memory: image i is filled with i, and has i % 4 objects of class i."""

    classes = ("a",)

    def __init__(self, sizes, broken: int | None = None):
        self.sizes, self.broken = sizes, broken

    def __len__(self):
        return len(self.sizes)

    def name(self, i):
        return f"{i}.jpg"

    def size(self, i):
        return self.sizes[i]

    def image(self, i):
        if i == self.broken:
            raise UserError(f"'{i}.jpg' is a broken image")
        return np.full((*self.sizes[i], 3), i, np.uint8)

    def truth(self, i):
        count = i % 4
        height, width = self.sizes[i]
        boxes = np.array([[1, 2, width - 1 - k, height - 2] for k in range(count)], np.float32).reshape(-1, 4)
        flags = np.zeros(count, bool)
        return Truth(boxes, np.full(count, i), flags, flags, [None] * count)


SIZES = [(30, 40), (40, 30), (33, 50), (64, 40), (40, 40)] * 4 + [(50, 20)]


def loader(dataset=None, **options) -> TrainLoader:
    given = {"short": 32, "long": 64, "batch_size": 4, "augmentation": ALL, "seed": 3, "workers": 0}
    return TrainLoader(Pictures(SIZES) if dataset is None else dataset, **{**given, **options})


def take(batches, count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.names == b.names
    assert torch.equal(a.images.pixels, b.images.pixels)
    assert torch.equal(a.images.sizes, b.images.sizes)
    assert torch.equal(a.truth.boxes, b.truth.boxes)
    assert torch.equal(a.truth.labels, b.truth.labels)
    assert torch.equal(a.truth.ignore, b.truth.ignore)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(workers):
    for a, b in zip(take(loader().batches(), 9), take(loader(workers=workers).batches(), 9), strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (7, 2), (13, 0)])
def test_a_run_that_starts_at_a_step_goes_on_as_if_never_interrupted(start, workers):
    whole = take(loader().batches(), 16)
    rest = take(loader(workers=workers).batches(start), 16 - start)
    for a, b in zip(whole[start:], rest, strict=True):
        assert_equal(a, b)


def test_global_generators_neither_shape_batches_nor_are_moved_by_them():
    torch.manual_seed(0)
    random.seed(0)
    first = take(loader().batches(), 2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = take(loader(workers=1).batches(), 2)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b)


def test_seeds_and_epochs_differ():
    names = [batch.names for batch in take(loader().batches(), 12)]
    assert names[:6] != names[6:]
    assert names[:6] != [batch.names for batch in take(loader(seed=4).batches(), 6)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 21, 50])
def test_an_epoch_visits_every_image_once_and_fills_the_last_batch(batch_size):
    one = loader(batch_size=batch_size)
    epochs = take(one.batches(), 2 * one.steps_per_epoch)
    for epoch in (epochs[: one.steps_per_epoch], epochs[one.steps_per_epoch :]):
        assert all(len(batch.images) == batch_size for batch in epoch)
        seen = Counter(name for batch in epoch for name in batch.names)
        assert set(seen) == {f"{i}.jpg" for i in range(len(SIZES))}
        assert sum(seen.values()) - len(seen) == -len(SIZES) % batch_size


def test_processes_share_a_step_without_overlap():
    together = [take(loader(batch_size=2, rank=rank, world=3).batches(), 4) for rank in range(3)]
    alone = take(loader(batch_size=6).batches(), 4)
    for step, batch in enumerate(alone):
        assert batch.names == sum((share[step].names for share in together), ())
        labels = [row[row >= 0].tolist() for share in together for row in share[step].truth.labels]
        assert labels == [row[row >= 0].tolist() for row in batch.truth.labels]


def test_batches_of_an_epoch_keep_tall_and_wide_apart_but_for_the_last():
    dataset = Pictures(SIZES)
    plain = loader(dataset, batch_size=2, augmentation=Augmentation.none())
    mixed = 0
    for batch in take(plain.batches(), plain.steps_per_epoch - 2):
        mixed += len({height > width for height, width in batch.images.sizes.tolist()}) > 1
    assert mixed == 0


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 1000))
def test_grouped_covers_the_order_for_any_mix(tall, rows, seed):
    tall = np.array(tall)
    order = permutation(seed, len(tall))
    batches = grouped(order, tall, rows)
    assert batches.shape == (-(-len(tall) // rows), rows)
    assert set(batches.ravel().tolist()) == set(range(len(tall)))
    whole = batches.ravel()[: len(tall)]
    assert len(set(whole.tolist())) == len(tall)  # only the fill repeats
    # The slow version: images wait in a queue of their aspect until a batch is full.
    queues, expected = {False: [], True: []}, []
    for i in order.tolist():
        queue = queues[bool(tall[i])]
        queue.append(i)
        if len(queue) == rows:
            expected.append(queue.copy())
            queue.clear()
    assert batches[: len(expected)].tolist() == expected


def test_one_scale_serves_a_whole_batch_and_varies_between_batches():
    scaled = loader(Pictures([(40, 40)] * 8), augmentation=Augmentation(flip=0.0, scale=(0.5, 1.5)))
    sizes = [batch.images.sizes for batch in take(scaled.batches(), 12)]
    assert all((size == size[0]).all() for size in sizes)
    sides = {size[0, 0].item() for size in sizes}
    assert len(sides) > 5
    assert min(sides) >= 16
    assert max(sides) <= 48


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_told_in_its_own_sentence(workers):
    batches = loader(Pictures(SIZES, broken=5), workers=workers).batches()
    with pytest.raises(UserError) as caught:
        take(batches, 6)
    assert str(caught.value) == "'5.jpg' is a broken image"
    with pytest.raises(UserError, match=r"^'5.jpg' is a broken image$"):
        list(eval_batches(Pictures(SIZES, broken=5), short=32, long=64, batch_size=4, workers=workers))


def test_impossible_requests_are_refused():
    with pytest.raises(UserError, match="there are no images to train on"):
        loader(Pictures([]))
    with pytest.raises(UserError, match="batch size 0"):
        loader(batch_size=0)
    with pytest.raises(UserError, match="-1 workers"):
        loader(workers=-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_each_image_once_in_batches_of_one_shape(workers):
    dataset = Pictures(SIZES)
    seen = []
    for indices, batch in eval_batches(dataset, short=32, long=64, batch_size=3, workers=workers):
        assert len(indices) == len(batch.images) <= 3
        assert batch.names == tuple(f"{i}.jpg" for i in indices)
        for row, i in enumerate(indices):
            alone = collate([resize(dataset.image(i), 32, 64)], [dataset.truth(i)])
            assert torch.equal(batch.images.pixels[row], alone.images.pixels[0])
            assert torch.equal(batch.images.sizes[row], alone.images.sizes[0])
            assert batch.truth.labels[row][: i % 4].tolist() == [i] * (i % 4)
        seen.append(indices)
    assert sorted(itertools.chain(*seen)) == list(range(len(SIZES)))
    assert [indices[0] for indices in seen] == sorted(indices[0] for indices in seen)


def test_evaluation_scales_boxes_with_their_image():
    ((_, batch),) = eval_batches(Pictures([(40, 80)] * 2), short=20, long=100, batch_size=2, indices=[1])
    assert batch.images.sizes.tolist() == [[20, 40]]
    assert batch.truth.boxes[0, 0].tolist() == [0.5, 1, 39.5, 19]


def test_collate_pads_right_and_bottom_with_zeros_to_multiples_of_32():
    images = [torch.full((3, 30, 40), 1, dtype=torch.uint8), torch.full((3, 33, 20), 2, dtype=torch.uint8)]
    pictures = Pictures([(30, 40)] * 4)
    batch = collate(images, [pictures.truth(3), pictures.truth(0)], ["x", "y"])
    assert batch.names == ("x", "y")
    assert batch.images.pixels.shape == (2, 3, 64, 64)
    assert batch.images.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.sizes.tolist() == [[30, 40], [33, 20]]
    for row, image in enumerate(images):
        expected = torch.zeros(3, 64, 64, dtype=torch.uint8)
        expected[:, : image.shape[1], : image.shape[2]] = image
        assert torch.equal(batch.images.pixels[row], expected)
    assert batch.images.inside.sum((1, 2, 3)).tolist() == [30 * 40, 33 * 20]


def test_padded_objects_have_label_minus_one_and_count_as_not_real():
    pictures = Pictures([(30, 40)] * 4)
    truth = pictures.truth(2)
    truth.difficult = np.array([False, True])
    batch = collate_truths([truth, pictures.truth(0)])
    assert batch.boxes.shape == (2, 4, 4)
    assert batch.labels.tolist() == [[2, 2, -1, -1], [-1] * 4]
    assert batch.real.tolist() == [[True, False, False, False], [False] * 4]
    assert batch.boxes[0, 2:].abs().max() == 0
    assert collate_truths([pictures.truth(0)]).boxes.shape == (1, 1, 4)


def test_capacity_is_one_for_none_then_powers_of_two_from_four():
    assert [capacity(n) for n in (0, 1, 4, 5, 8, 9, 100)] == [1, 4, 4, 8, 8, 16, 128]


def regions_of(dataset, index):
    """The image's objects, then its lower right quarter, then what lies outside of it."""
    height, width = dataset.size(index)
    more = [[width / 2, height / 2, width, height], [width + 5, 0, width + 9, 9]]
    return np.concatenate((dataset.truth(index).boxes, np.array(more, np.float32)))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_carry_regions_through_the_augmentation(workers):
    for batch in take(loader(regions=regions_of, workers=workers).batches(), 8):
        assert batch.proposals.boxes.shape == (4, 64, 4)
        assert torch.equal(batch.proposals.scores, batch.proposals.valid.float())
        assert batch.proposals.boxes[~batch.proposals.valid].abs().max() == 0
        for row in range(4):
            objects = batch.truth.boxes[row][batch.truth.labels[row] >= 0]
            regions = batch.proposals.boxes[row][batch.proposals.valid[row]]
            assert torch.equal(regions[: len(objects)], objects), "those at the same place moved alike"
            assert len(objects) <= len(regions) <= len(objects) + 1, "what lay outside is gone"


def test_regions_leave_the_rest_of_a_batch_as_it_is():
    for a, b in zip(take(loader().batches(), 6), take(loader(regions=regions_of).batches(), 6), strict=True):
        assert_equal(a, b)
        assert a.proposals is None


def test_evaluation_resizes_regions_with_their_image():
    dataset = Pictures([(40, 80)] * 4)
    ((_, batch),) = eval_batches(dataset, short=20, long=100, batch_size=4, indices=[2, 3], regions=regions_of)
    assert batch.proposals.valid.sum(1).tolist() == [3, 4]
    assert batch.proposals.boxes[0, 0].tolist() == batch.truth.boxes[0, 0].tolist()
    assert batch.proposals.boxes[0, 2].tolist() == [20, 10, 40, 20]


@pytest.mark.parametrize(("counts", "capacity"), [((0, 0), 64), ((3, 64), 64), ((65, 1), 128), ((2000,), 2048)])
def test_regions_are_padded_to_a_multiple_of_64(counts, capacity):
    regions = [np.arange(4 * count, dtype=np.float32).reshape(-1, 4) for count in counts]
    proposals = collate_regions(regions)
    assert proposals.boxes.shape == (len(counts), capacity, 4)
    assert proposals.valid.sum(1).tolist() == list(counts)
    for row, own in enumerate(regions):
        assert np.array_equal(proposals.boxes[row, : len(own)].numpy(), own)
        assert not proposals.valid[row, len(own) :].any()


def test_a_batch_draws_its_shorter_side_and_the_longest_follows():
    sides = (16, 32, 48)
    scaled = loader(
        Pictures([(40, 40), (20, 80)] * 4), batch_size=2, augmentation=Augmentation(flip=0.0, shorter_sides=sides)
    )
    drawn = [batch.images.sizes for batch in take(scaled.batches(), 40)]
    squares = {tuple(size) for sizes in drawn for size in sizes.tolist() if size[0] == size[1]}
    assert squares == {(16, 16), (32, 32), (48, 48)}
    # 20 × 80 pixels are held back by the longest side: 64 at a shorter side of 32, and in proportion.
    wide = {tuple(size) for sizes in drawn for size in sizes.tolist() if size[0] != size[1]}
    assert wide == {(8, 32), (16, 64), (24, 96)}
