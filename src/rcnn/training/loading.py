"""Batches of whole images, augmented as the recipe says."""

from __future__ import annotations

from rcnn.data import TrainLoader
from rcnn.proposals.regions import Regions
from rcnn.training.job import Job


def image_loader(job: Job, regions: Regions | None = None) -> TrainLoader:
    """The loader of this process's share of the training batches.

    Args:
        regions: gives the proposals that come along with an image, in place of the job's.
    """
    recipe, world = job.recipe, job.world
    short, long = job.model.options.image_size
    return TrainLoader(
        job.train_set,
        short=short,
        long=long,
        batch_size=recipe.train.batch_size,
        augmentation=recipe.augment,
        seed=recipe.train.seed,
        workers=job.workers,
        rank=world.rank,
        world=world.size,
        pin_memory=job.model.device.type == "cuda",
        regions=regions or job.regions,
        masks=job.model.learns_masks,
        rule=job.model.resize_rule,
    )
