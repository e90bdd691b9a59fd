"""Batches of crops for R-CNN's classifier (Girshick et al. 2014, section 2.3).

`pretrain` sees the objects themselves, each once an epoch. `finetune` draws regions uniformly from the whole data set:
32 that overlap an object and 96 that do not, or every batch would be background. A batch is a pure function of (seed,
step), as those of whole images are. Letters: I images, G objects, N regions of an image, R crops, S side of a crop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from rcnn import kernels
from rcnn.data import Dataset, resize
from rcnn.data.loader import made_ahead, worker_options
from rcnn.data.seeds import counter_seed, counter_words, permutation
from rcnn.detectors.three_stage import FineTuneOptions, ThreeStageDetector
from rcnn.errors import RCNNError, UserError
from rcnn.pooling import Warp
from rcnn.pooling.warp import context_windows
from rcnn.structures import Batch, GroundTruth, ImageBatch
from rcnn.training.job import Job

# Counters that keep the streams of one seed apart.
_ORDER, _DRAW, _FLIP = range(3)

Sampling = Literal["truth", "regions"]


class CropLoader:
    """Endless batches of crops; made by `crop_loader`.

    Attributes:
        steps_per_epoch: steps that pass once over the objects.
    """

    def __init__(self, steps: _Steps, steps_per_epoch: int, workers: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._steps, self._options = steps, worker_options(workers)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches from number `start_step` on, without end: R crops [R, 3, S, S] as images, a box and a label each.

        Raises:
            RCNNError: an image cannot be read; the sentence names it.
        """
        return made_ahead(self._steps, itertools.count(start_step), self._options)


def crop_loader(job: Job, sampling: Sampling = "regions") -> CropLoader:
    """The batches of a stage that learns from crops.

    Args:
        job: its model says how crops are made and how many of them a batch has.
        sampling: "truth" for crops of objects, "regions" for R-CNN's mini-batches.

    Raises:
        UserError: there is nothing to draw from.
    """
    model, augmentation = job.model, job.recipe.augment
    assert isinstance(model, ThreeStageDetector)
    rule = model.options.finetune
    pools = _objects(job.train_set) if sampling == "truth" else _regions(job, rule)
    where = f"'{job.recipe.data.path}' ({job.train_set.split})"
    if not len(pools.objects):
        raise UserError(f"there is no object in {where} to learn from")
    if sampling == "regions" and not len(pools.background):
        raise UserError(f"there is no region of background in {where} to learn from")
    steps = _Steps(
        job.train_set,
        pools,
        rule,
        warp=Warp(model.options.warp),
        mean=model.backbone.normalise.mean_colour.cpu(),
        image_size=model.options.image_size,
        flips=(augmentation.flip, augmentation.vertical_flip),
        seed=job.recipe.train.seed,
        rank=job.world.rank,
        world=job.world.size,
    )
    size = (rule.truths if sampling == "truth" else rule.positives) * job.world.size
    return CropLoader(steps, -(-len(pools.objects) // size), job.workers)


@dataclass
class Boxes:
    """Boxes [M, 4] in pixels of their images, `image` [M], and what each shows, `labels` [M]; −1 for background."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray) -> Boxes:
        """The boxes at `rows` [m]."""
        return Boxes(self.image[rows], self.boxes[rows], self.labels[rows])


@dataclass
class Pools:
    """What batches are drawn from."""

    objects: Boxes
    background: Boxes


def _objects(dataset: Dataset) -> Pools:
    """The objects of a data set, without those to be ignored."""
    columns = dataset.columns()
    kept = ~(columns["difficult"] | columns["crowd"])
    image, boxes, labels = (columns[name][kept] for name in ("image", "boxes", "labels"))
    return Pools(Boxes(image, boxes, labels), _joined([]))


def _regions(job: Job, rule: FineTuneOptions) -> Pools:
    """The regions of all training images, objects' own boxes among them, sorted into objects and background."""
    assert job.regions is not None
    objects, background = [], []
    for i in range(len(job.train_set)):
        job.pause()
        truth = job.train_set.truth(i)
        own = truth.boxes[~truth.ignore]
        boxes = np.concatenate((own, job.regions(job.train_set, i))).astype(np.float32)  # [N, 4]
        overlap, index, ignored = overlaps(boxes, truth.boxes, truth.ignore)
        positive = overlap >= rule.positive
        negative = ~positive & (ignored < rule.positive)
        labels = truth.labels[index] if len(truth) else np.zeros(len(boxes), np.int64)
        for rows, chosen, shown in ((positive, objects, labels), (negative, background, np.full(len(boxes), -1))):
            count = int(rows.sum())
            chosen.append(Boxes(np.full(count, i, np.int32), boxes[rows], shown[rows].astype(np.int32)))
    return Pools(_joined(objects), _joined(background))


def overlaps(boxes: np.ndarray, truth: np.ndarray, ignore: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What boxes [N, 4] have to do with objects [G, 4].

    Returns:
        [N] the highest IoU with an object that counts, [N] which one it is, [N] the highest IoU with one of those to
        `ignore` [G].
    """
    given, objects, skipped = torch.from_numpy(boxes)[None], torch.from_numpy(truth)[None], torch.from_numpy(ignore)
    best, index, _ = kernels.match(given, objects, ~skipped[None])
    most, _, _ = kernels.match(given, objects, skipped[None])
    return best[0].numpy(), index[0].numpy(), most[0].numpy()


def _joined(parts: list[Boxes]) -> Boxes:
    """One set out of many."""
    if not parts:
        return Boxes(np.empty(0, np.int32), np.empty((0, 4), np.float32), np.empty(0, np.int32))
    return Boxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "boxes", "labels")))


class _Steps(TorchDataset):
    """Makes the batch of any step; this is what workers hold."""

    def __init__(
        self,
        dataset: Dataset,
        pools: Pools,
        rule: FineTuneOptions,
        *,
        warp: Warp,
        mean: Tensor,
        image_size: tuple[int, int],
        flips: tuple[float, float],
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        self.dataset, self.pools, self.rule = dataset, pools, rule
        self.warp, self.mean, self.image_size, self.flips = warp, mean, image_size, flips
        self.seed, self.rank, self.world = seed, rank, world

    def __getitem__(self, step: int) -> Batch | RCNNError:
        """The batch of a step, or the error that kept it from being made (told in the training process)."""
        try:
            chosen = self._drawn(step) if len(self.pools.background) else self._in_turn(step)
            return self._batch(step, chosen)
        except RCNNError as error:
            return error

    def _in_turn(self, step: int) -> Boxes:
        """The objects of a step of `pretrain`: each once an epoch, and the first of its order where they do not fill
        the last batch."""
        count, total = self.rule.truths, len(self.pools.objects)
        epoch, row = divmod(step, -(-total // (count * self.world)))
        order = permutation(counter_seed(self.seed, _ORDER, epoch), total)
        places = np.arange(count) + (row * self.world + self.rank) * count
        return self.pools.objects.take(order[places % total])

    def _drawn(self, step: int) -> Boxes:
        """The regions of a step of `finetune`, drawn with replacement, all objects and all background alike likely."""
        rule = self.rule
        words = counter_words(counter_seed(self.seed, _DRAW, step, self.rank), rule.positives + rule.background)
        objects, background = self.pools.objects, self.pools.background
        rows = words[: rule.positives] % np.uint64(len(objects)), words[rule.positives :] % np.uint64(len(background))
        return _joined([objects.take(rows[0].astype(np.int64)), background.take(rows[1].astype(np.int64))])

    def _batch(self, step: int, chosen: Boxes) -> Batch:
        """The crops of boxes, each image being read once."""
        size = self.warp.options.size
        crops = torch.empty(len(chosen), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # [R, 3, S, S]
        places = torch.empty(len(chosen), 4)
        for i in np.unique(chosen.image).tolist():
            rows = np.flatnonzero(chosen.image == i)
            crops[rows], places[rows] = crops_of(
                self.dataset.image(i), chosen.boxes[rows], self.image_size, self.warp, self.mean
            )
        self._flip(crops, places, step)
        labels = torch.from_numpy(chosen.labels.astype(np.int64))[:, None]
        truth = GroundTruth(places[:, None], labels, torch.zeros(len(chosen), 1, dtype=torch.bool))
        names = tuple(self.dataset.name(i) for i in chosen.image.tolist())
        return Batch(ImageBatch(crops, torch.full((len(chosen), 2), float(size))), truth, names)

    def _flip(self, crops: Tensor, places: Tensor, step: int) -> None:
        """Mirrors some of the crops [R, 3, S, S], left to right and top to bottom, in place; their boxes [R, 4] too."""
        size = crops.shape[-1]
        for axis, (probability, dim) in enumerate(zip(self.flips, (3, 2), strict=True)):
            if not probability:
                continue
            words = counter_words(counter_seed(self.seed, _FLIP, step, self.rank, axis), len(crops))
            chances = (words >> np.uint64(11)) * 2.0**-53  # in [0, 1)
            rows = torch.from_numpy(np.flatnonzero(chances < probability))
            crops[rows] = crops[rows].flip(dim)
            places[rows, axis], places[rows, axis + 2] = size - places[rows, axis + 2], size - places[rows, axis]


def crops_of(
    pixels: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], warp: Warp, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """Crops [R, 3, S, S] uint8 of boxes [R, 4] in an image [H, W, 3], and where in its crop each box lies [R, 4].

    Args:
        image_size: the shorter and the longest side in pixels that the image is resized to first.
        mean: the fill colour [3].
    """
    image = resize(pixels, *image_size)  # [3, h, w]
    (h0, w0), (h1, w1) = pixels.shape[:2], image.shape[1:]
    scaled = torch.from_numpy(boxes) * torch.tensor([w1 / w0, h1 / h0, w1 / w0, h1 / h0])
    windows = context_windows(scaled, warp.options)
    corner, side = windows[:, :2], windows[:, 2:] - windows[:, :2]
    places = (scaled - corner.repeat(1, 2)) / side.repeat(1, 2) * warp.options.size
    return warp(image, scaled, mean), places
