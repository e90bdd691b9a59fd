"""The stages `propose`: regions of every image are found before anything learns from them, by a method or by a network
that an earlier stage has trained.
"""

from __future__ import annotations

from functools import partial

from rcnn.data import Dataset
from rcnn.detectors import load
from rcnn.detectors.proposing import NetworkRegions
from rcnn.detectors.two_stage import TwoStage
from rcnn.proposals import CachedRegions, fill
from rcnn.training.job import Job


def find_regions(job: Job) -> None:
    """Fills the store of regions with those of the images to learn from and to judge on.

    The store knows by content which images have theirs, so that nothing is found twice; regions read from the user's
    files are there already.
    """
    if not isinstance(job.regions, CachedRegions):
        return
    _fill(job, job.regions, job.train_set, job.val_set)


def propose(job: Job, by: str) -> None:
    """Finds the proposals of the images to learn from, as the model that the stage `by` left gives them."""
    _fill(job, proposed(job, by), job.train_set, threads=1)  # a network spreads over the cores by itself


def proposed(job: Job, by: str) -> CachedRegions:
    """The proposals of the model that the stage `by` left, kept in that stage's folder.

    They are those of whole images, and mirrored and cut with them as Selective Search's are (py-faster-rcnn does the
    same; the MATLAB release proposes anew on mirrored images).
    """
    folder = job.earlier(by)
    model = load(folder, device=str(job.model.device), precision=job.model.precision)
    assert isinstance(model, TwoStage)
    return CachedRegions(NetworkRegions(model, training=True), folder / "regions")


def _fill(job: Job, regions: CachedRegions, *datasets: Dataset, threads: int | None = None) -> None:
    """Finds what is missing of the data sets' regions, this process's share of it."""
    shares = [(dataset, job.world.share(len(dataset))) for dataset in datasets]
    total, before = sum(len(share) for _, share in shares), 0
    for dataset, share in shares:
        done = partial(_shown, job, before, total)
        fill(regions, dataset, indices=share, threads=threads, done=done, pause=job.pause)
        before += len(share)


def _shown(job: Job, before: int, total: int, count: int) -> None:
    job.progress(before + count, total)
