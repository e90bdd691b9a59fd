"""Batches for training and validation, made ahead by worker processes.

A training batch is a pure function of (seed, step): which images, at which scale and how augmented all come from
counters, so neither the number of workers nor an interruption changes it, and a run resumes from its step number alone.
Letters: N images of the data set, B images of a batch, W processes that train together.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rcnn.data.collate import collate
from rcnn.data.seeds import counter_seed, permutation
from rcnn.data.transforms import Augmentation, ResizeRule, resize, resize_regions, resize_truth, resized_size
from rcnn.errors import RCNNError, UserError
from rcnn.structures import Batch, padded

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset

__all__ = ["TrainLoader", "collate", "eval_batches", "made_ahead", "worker_options"]

# The regions [N, 4] of an image of a data set, in its pixels, best first; see `proposals.CachedRegions`.
Regions: TypeAlias = "Callable[[Dataset, int], np.ndarray]"

# Counters that keep the streams of one seed apart.
_ORDER, _SCALE, _IMAGE, _SIDE = range(4)


class TrainLoader:
    """Endless training batches of one seed.

    An epoch visits every image once, in an order of its own. Images wider than high and images higher than wide are
    batched apart, which saves padding; only the batches that end an epoch may mix them. Where the images do not fill
    the last batch, the first of the epoch's order fill it, so that every batch holds `batch_size` images.

    Args:
        dataset: the images.
        short: shorter side in pixels in the network.
        long: most pixels of the longer side.
        batch_size: images a batch, of this process.
        augmentation: what is done to them at random.
        seed: of order and augmentation.
        workers: processes that prepare batches; 0 prepares them in this one.
        rank: which share of the step's W · B images is this process's.
        world: W, how many processes train together.
        pin_memory: puts batches in page-locked memory; None does where there is a CUDA device.
        context: how workers start ("fork", "spawn", "forkserver"); None forks on Linux.
        regions: gives each image's proposals, which go through the same augmentation into `Batch.proposals`; None
            leaves them out.
        masks: whether the objects' masks come along.
        rule: how images are resized; see `transforms.resize`.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        short: int,
        long: int,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        workers: int,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool | None = None,
        context: str | None = None,
        regions: Regions | None = None,
        masks: bool = False,
        rule: ResizeRule = "antialias",
    ) -> None:
        if len(dataset) == 0:
            raise UserError("there are no images to train on; expected at least one")
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected at least 1")
        self.steps_per_epoch = -(-len(dataset) // (batch_size * world))
        self._steps = _TrainingSteps(
            dataset, short, long, batch_size, augmentation, seed, rank, world, regions, masks, rule
        )
        self._options = worker_options(workers, pin_memory, context)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches from number `start_step` on, without end; closing the iterator ends the workers.

        Raises:
            RCNNError: an image cannot be read; the sentence names it.
        """
        return made_ahead(self._steps, itertools.count(start_step), self._options)


def eval_batches(
    dataset: Dataset,
    *,
    short: int,
    long: int,
    batch_size: int,
    workers: int = 0,
    indices: Sequence[int] | None = None,
    pin_memory: bool | None = None,
    context: str | None = None,
    regions: Regions | None = None,
    masks: bool = False,
    rule: ResizeRule = "antialias",
) -> Iterator[tuple[tuple[int, ...], Batch]]:
    """Each image once, resized and not augmented, in batches of one padded shape, so that batching changes no result.

    Args:
        dataset: the images.
        short: shorter side in pixels in the network.
        long: most pixels of the longer side.
        batch_size: most images a batch.
        workers: processes that prepare batches; 0 prepares them in this one.
        indices: the images wanted; None is all.
        pin_memory: as of `TrainLoader`.
        context: as of `TrainLoader`.
        regions: as of `TrainLoader`.
        masks: as of `TrainLoader`.
        rule: as of `TrainLoader`.

    Yields:
        The images' indices and their batch; batches in the order of their first image.

    Raises:
        RCNNError: an image cannot be read; the sentence names it.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i in range(len(dataset)) if indices is None else indices:
        height, width = resized_size(*dataset.size(i), short, long, rule)
        by_shape.setdefault((padded(height), padded(width)), []).append(i)
    chunks = [tuple(g[k : k + batch_size]) for g in by_shape.values() for k in range(0, len(g), batch_size)]
    plan = _EvaluationSteps(dataset, short, long, sorted(chunks), regions, masks, rule)
    yield from made_ahead(plan, range(len(chunks)), worker_options(workers, pin_memory, context))


class _TrainingSteps(TorchDataset):
    """Makes the batch of any step; this is what workers hold."""

    def __init__(
        self,
        dataset: Dataset,
        short: int,
        long: int,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        rank: int,
        world: int,
        regions: Regions | None,
        masks: bool,
        rule: ResizeRule,
    ) -> None:
        self.regions, self.masks, self.rule = regions, masks, rule
        self.dataset, self.short, self.long = dataset, short, long
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.augmentation, self.seed = augmentation, seed
        self.tall = np.array([height > width for height, width in map(dataset.size, range(len(dataset)))])
        self._plan: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, step: int) -> Batch | RCNNError:
        """The batch of a step, or the error that kept it from being made (told in the training process)."""
        try:
            return self._batch(step)
        except RCNNError as error:
            return error

    def _batch(self, step: int) -> Batch:
        """The batch of a step."""
        factor = self._factor(step)
        short, long = round(self.short * factor), round(self.long * factor)
        images, truths, names, regions = [], [], [], []
        for position, i in enumerate(self._images(step), start=self.rank * self.batch_size):
            seed = counter_seed(self.seed, _IMAGE, step, position)
            pixels, truth = self.dataset.image(i), self.dataset.truth(i)
            around = np.empty((0, 4), np.float32) if self.regions is None else self.regions(self.dataset, i)
            image, truth, around = self.augmentation.apply_with_regions(
                pixels, truth, around, short=short, long=long, seed=seed, rule=self.rule
            )
            images.append(image)
            truths.append(truth)
            names.append(self.dataset.name(i))
            regions.append(around)
        return collate(images, truths, names, None if self.regions is None else regions, masks=self.masks)

    def _factor(self, step: int) -> float:
        """The step's scale, the same in every process."""
        low, high = self.augmentation.scale
        factor = low + (high - low) * counter_seed(self.seed, _SCALE, step) / 2**63
        sides = self.augmentation.shorter_sides
        if sides:
            factor *= sides[counter_seed(self.seed, _SIDE, step) % len(sides)] / self.short
        return factor

    def _images(self, step: int) -> list[int]:
        """The images of a step in this process."""
        rows = self.batch_size * self.world
        epoch, row = divmod(step, -(-len(self.tall) // rows))
        if self._plan[0] != epoch:
            order = permutation(counter_seed(self.seed, _ORDER, epoch), len(self.tall))
            self._plan = epoch, grouped(order, self.tall, rows)
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return self._plan[1][row, mine].tolist()


class _EvaluationSteps(TorchDataset):
    """Makes any of the batches that images were grouped into."""

    def __init__(
        self,
        dataset: Dataset,
        short: int,
        long: int,
        chunks: list[tuple[int, ...]],
        regions: Regions | None,
        masks: bool,
        rule: ResizeRule,
    ) -> None:
        self.dataset, self.short, self.long, self.chunks = dataset, short, long, chunks
        self.regions, self.masks, self.rule = regions, masks, rule

    def __getitem__(self, k: int) -> tuple[tuple[int, ...], Batch] | RCNNError:
        """Indices and batch number k, or the error that kept it from being made."""
        try:
            images, truths, regions = [], [], []
            for i in self.chunks[k]:
                pixels = self.dataset.image(i)
                images.append(resize(pixels, self.short, self.long, self.rule))
                before, after = pixels.shape[:2], tuple(images[-1].shape[-2:])
                truths.append(resize_truth(self.dataset.truth(i), before, after))
                if self.regions is not None:
                    regions.append(resize_regions(self.regions(self.dataset, i), before, after))
            names = [self.dataset.name(i) for i in self.chunks[k]]
            around = None if self.regions is None else regions
            return self.chunks[k], collate(images, truths, names, around, masks=self.masks)
        except RCNNError as error:
            return error


def grouped(order: np.ndarray, tall: np.ndarray, rows: int) -> np.ndarray:
    """Cuts an epoch's order into batches of like aspect.

    Args:
        order: [N] image indices, shuffled.
        tall: [N] bool, by image index: higher than wide.
        rows: images a batch.

    Returns:
        [S, rows] image indices of S = ceil(N / rows) batches: every image once, and the first of `order` again where
        the last batch has room. Batches come in the order in which they fill up; images that fill none of one aspect
        come last.
    """
    batches, filled, rest = [], [], []
    for aspect in (False, True):
        where = np.flatnonzero(tall[order] == aspect)  # positions in the order
        whole = len(where) // rows * rows
        batches.append(where[:whole].reshape(-1, rows))
        filled.append(where[rows - 1 : whole : rows])
        rest.append(where[whole:])
    left = np.sort(np.concatenate(rest))
    room = -len(order) % rows
    left = np.concatenate((left, np.resize(np.arange(len(order)), room)))
    whole_batches = np.concatenate(batches)[np.argsort(np.concatenate(filled))]
    return order[np.concatenate((whole_batches, left.reshape(-1, rows)))]


def worker_options(workers: int, pin_memory: bool | None = None, context: str | None = None) -> dict[str, Any]:
    """The DataLoader's options; see `TrainLoader` for the arguments."""
    if workers < 0:
        raise UserError(f"{workers} workers: expected 0 or more")
    options: dict[str, Any] = {"pin_memory": torch.cuda.is_available() if pin_memory is None else pin_memory}
    if workers:
        # Forked workers share the data set's memory and start at once; our kernels are serial, so they may be forked.
        options["worker_init_fn"] = _ignore_interrupts
        options["multiprocessing_context"] = context or ("fork" if sys.platform == "linux" else "spawn")
    return {"num_workers": workers, **options}


def _ignore_interrupts(worker: int) -> None:
    """Leaves Ctrl-C to the training process, which still needs its workers while it saves its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def made_ahead(steps: TorchDataset, order: Any, options: dict[str, Any]) -> Iterator[Any]:
    """What `steps` makes of each number of `order`, made ahead by workers.

    Args:
        steps: gives the batch of a number, or the RCNNError that kept it from being made, which is raised here.
        order: the numbers, perhaps without end.
        options: as of `worker_options`.
    """
    # A generator of its own: the loader would draw from torch's global one, and shift what the training draws.
    for made in DataLoader(steps, batch_size=None, sampler=order, generator=torch.Generator(), **options):
        if isinstance(made, RCNNError):
            raise made
        yield made
