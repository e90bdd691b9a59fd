"""The stage `propose`: finds the regions of every image before anything learns from them."""

from __future__ import annotations

from functools import partial

from rcnn.proposals import CachedRegions, fill
from rcnn.training.job import Job


def find_regions(job: Job) -> None:
    """Fills the store of regions with those of the images to learn from and to judge on.

    The store knows by content which images have theirs, so that nothing is found twice; regions read from the user's
    files are there already.
    """
    if not isinstance(job.regions, CachedRegions):
        return
    shares = [(dataset, job.world.share(len(dataset))) for dataset in (job.train_set, job.val_set)]
    total = sum(len(share) for _, share in shares)
    before = 0
    for dataset, share in shares:
        fill(job.regions, dataset, indices=share, done=partial(_shown, job, before, total), pause=job.pause)
        before += len(share)


def _shown(job: Job, before: int, total: int, count: int) -> None:
    job.progress(before + count, total)
