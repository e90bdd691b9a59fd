"""The crops that R-CNN learns from: which regions are drawn, how they are labelled, and that a step decides it all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rcnn
from rcnn.boxes import iou
from rcnn.data import Augmentation, open_dataset
from rcnn.errors import UserError
from rcnn.pooling import Warp, WarpOptions
from rcnn.training.crops import crop_loader, crops_of

SETTINGS = {
    "image_size": [48, 96],
    "warp": {"size": 32},
    "finetune": {"positives": 4, "background": 12, "truths": 5},
}


def regions_of(dataset, index):
    """Regions [N, 4] that are a function of the index: around the objects, and anywhere."""
    random = np.random.default_rng(index)
    near = [box + random.uniform(-6, 6, 4) for box in dataset.truth(index).boxes for _ in range(4)]
    corner = random.uniform(0, 25, (30, 2))
    anywhere = np.concatenate((corner, corner + random.uniform(8, 20, (30, 2))), 1)
    return np.clip(np.concatenate((np.array(near).reshape(-1, 4), anywhere)), 0, 48).astype(np.float32)


@pytest.fixture(scope="module")
def model(squares):
    torch.manual_seed(0)
    return rcnn.create("rcnn/squeezenet", open_dataset(squares, "train").classes, settings=SETTINGS)


def job_of(model, dataset, *, workers=0, seed=0, rank=0, world=1, regions=regions_of, **augment):
    recipe = SimpleNamespace(
        augment=Augmentation(**{"flip": 0.0, **augment}),
        train=SimpleNamespace(seed=seed),
        data=SimpleNamespace(path="squares"),
    )
    return SimpleNamespace(
        model=model,
        recipe=recipe,
        train_set=dataset,
        regions=regions,
        workers=workers,
        world=SimpleNamespace(rank=rank, size=world),
        pause=lambda: None,
    )


def first(loader, count, start=0):
    batches = loader.batches(start)
    return [next(batches) for _ in range(count)]


def test_a_mini_batch_has_its_objects_first_and_then_background(model, squares):
    dataset = open_dataset(squares, "train")
    for batch in first(crop_loader(job_of(model, dataset)), 4):
        labels = batch.truth.labels[:, 0]
        assert batch.images.pixels.shape == (16, 3, 32, 32)
        assert (labels[:4] >= 0).all()
        assert (labels[4:] == -1).all()


def test_the_pools_are_all_regions_sorted_by_their_overlap(model, squares):
    dataset = open_dataset(squares, "train")
    pools = crop_loader(job_of(model, dataset))._steps.pools
    objects, background = [], []
    for i in range(len(dataset)):
        truth = dataset.truth(i)
        for box in np.concatenate((truth.boxes, regions_of(dataset, i))).astype(np.float32):
            overlaps = [iou(torch.tensor(box)[None], torch.tensor(t)[None]).item() for t in truth.boxes]
            if overlaps and max(overlaps) >= 0.5:
                objects.append((i, *box.tolist(), int(truth.labels[int(np.argmax(overlaps))])))
            else:
                background.append((i, *box.tolist(), -1))
    for found, expected in ((pools.objects, objects), (pools.background, background)):
        rows = list(zip(found.image.tolist(), found.boxes.tolist(), found.labels.tolist(), strict=True))
        assert [(i, *box, label) for i, box, label in rows] == expected


def test_every_region_of_the_data_set_is_equally_likely(model, squares):
    dataset = open_dataset(squares, "train")
    steps = crop_loader(job_of(model, dataset))._steps
    counts = np.zeros(len(steps.pools.background))
    places = {tuple(box): k for k, box in enumerate(steps.pools.background.boxes.tolist())}
    total = 3000
    for step in range(total):
        for box in steps._drawn(step).boxes[4:].tolist():
            counts[places[tuple(box)]] += 1
    expected = total * 12 / len(places)
    assert abs(counts[counts > 0] - expected).max() < 6 * np.sqrt(expected)
    assert (counts > 0).sum() == len(places)


def test_a_batch_is_a_function_of_seed_and_step_whatever_the_workers(model, squares):
    dataset = open_dataset(squares, "train")
    alone = first(crop_loader(job_of(model, dataset, flip=0.5)), 4)
    ahead = first(crop_loader(job_of(model, dataset, flip=0.5, workers=2)), 4)
    later = first(crop_loader(job_of(model, dataset, flip=0.5)), 2, start=2)
    for a, b in [*zip(alone, ahead, strict=True), *zip(alone[2:], later, strict=True)]:
        assert torch.equal(a.images.pixels, b.images.pixels)
        assert torch.equal(a.truth.labels, b.truth.labels)
        assert a.names == b.names
    other = first(crop_loader(job_of(model, dataset, flip=0.5, seed=1)), 1)[0]
    assert not torch.equal(other.images.pixels, alone[0].images.pixels)


def test_processes_draw_different_regions(model, squares):
    dataset = open_dataset(squares, "train")
    mine, yours = (first(crop_loader(job_of(model, dataset, rank=r, world=2)), 1)[0] for r in range(2))
    assert not torch.equal(mine.images.pixels, yours.images.pixels)


def test_pretraining_sees_every_object_once_an_epoch(model, squares):
    dataset = open_dataset(squares, "train")
    loader = crop_loader(job_of(model, dataset), sampling="truth")
    columns = dataset.columns()
    total = len(columns["labels"])
    steps = loader._steps
    for epoch in range(2):
        seen = []
        for step in range(loader.steps_per_epoch):
            chosen = steps._in_turn(epoch * loader.steps_per_epoch + step)
            seen += [(int(i), *box) for i, box in zip(chosen.image, chosen.boxes.tolist(), strict=True)]
        expected = {(int(i), *box) for i, box in zip(columns["image"], columns["boxes"].tolist(), strict=True)}
        assert set(seen) == expected
        assert set(seen[:total]) == expected
    batch = first(loader, 1)[0]
    assert (batch.truth.labels >= 0).all()


def test_a_crop_is_labelled_by_what_it_shows(model, squares):
    dataset = open_dataset(squares, "train")
    for batch in first(crop_loader(job_of(model, dataset), sampling="truth"), 3):
        centre = batch.images.pixels[:, :, 12:20, 12:20].float().mean((2, 3))  # [R, 3]
        is_red = centre[:, 0] > centre[:, 2]
        assert torch.equal(is_red, batch.truth.labels[:, 0] == dataset.classes.index("red"))


def test_a_flip_mirrors_the_crop(model, squares):
    dataset = open_dataset(squares, "train")
    plain = first(crop_loader(job_of(model, dataset)), 1)[0]
    mirrored = first(crop_loader(job_of(model, dataset, flip=1.0)), 1)[0]
    assert torch.equal(mirrored.images.pixels, plain.images.pixels.flip(3))
    x1, y1, x2, y2 = plain.truth.boxes.unbind(-1)
    torch.testing.assert_close(mirrored.truth.boxes, torch.stack((32 - x2, y1, 32 - x1, y2), -1))


def test_a_box_lies_in_its_crop_where_the_loader_says():
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[20:40, 30:50] = 255
    box = np.array([[30, 20, 50, 40]], np.float32)
    for kind in ("anisotropic", "isotropic"):
        crops, places = crops_of(pixels, box, (120, 200), Warp(WarpOptions(kind=kind, size=56)), torch.zeros(3))
        bright = (crops[0, 0] > 127).nonzero()
        found = [*bright.amin(0).flip(0).tolist(), *(bright.amax(0).flip(0) + 1).tolist()]
        np.testing.assert_allclose(found, places[0], atol=1)


def test_nothing_to_learn_from_is_one_sentence(model, squares):
    dataset = open_dataset(squares, "train")
    empty = SimpleNamespace(
        columns=lambda: {k: v[:0] for k, v in dataset.columns().items()}, split="train", __len__=lambda: 0
    )
    with pytest.raises(UserError, match="no object"):
        crop_loader(job_of(model, empty), sampling="truth")
