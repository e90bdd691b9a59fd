"""Regions that come from outside the network: found once for each image and kept, or read from published files.

R-CNN, SPP-net and Fast R-CNN look at the same regions in every epoch (Girshick et al. 2014, section 2.1), and finding
them costs more than looking. An entry of the cache is named by what was searched (a digest of the decoded pixels) and
how (the method's key), so it can be missing or damaged but never stale. Letters: N regions of one image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rcnn.data.dataset import Dataset
from rcnn.errors import UserError
from rcnn.files import cache_folder, telling
from rcnn.process import cpus
from rcnn.proposals.method import RegionMethod
from rcnn.proposals.selective_search import SelectiveSearch, SelectiveSearchOptions

Regions = Callable[[Dataset, int], np.ndarray]

# An unfinished entry is left by a killed process if it is older than this; a younger one may still be written.
ABANDONED = 3600.0


@dataclass(frozen=True)
class RegionOptions:
    """Where a system's regions come from.

    Attributes:
        method: how they are found.
        mode: of Selective Search: "fast" (about 2,000 boxes), "quality" (about 10,000) or "single" (a few hundred).
        count: the most regions of an image that are used, best first.
        sigma: of Selective Search's smoothing, in pixels.
        min_side: regions with a shorter side, in pixels, are dropped.
        overlap: IoU with a better ranked region above which one is dropped; at 1 only equal ones are.
        width: images are searched at this width, as R-CNN did at 500; "none" for their own.
        seed: of the ranking's random part.
    """

    method: Literal["selective-search"] = "selective-search"
    mode: Literal["fast", "quality", "single"] = "fast"
    count: int = 2000
    sigma: float = 0.8
    min_side: float = 20.0
    overlap: float = 0.875
    width: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"model.regions.count = {self.count}: expected at least 1")
        method_of(self)


def method_of(options: RegionOptions) -> RegionMethod:
    """The method that the options name: pixels [H, W, 3] → regions [N, 4], at most `options.count`."""
    return SelectiveSearch(
        SelectiveSearchOptions(
            mode=options.mode,
            sigma=options.sigma,
            min_side=options.min_side,
            overlap=options.overlap,
            width=options.width,
            seed=options.seed,
        ),
        count=options.count,
    )


class CachedRegions:
    """Regions of a data set's images by a method, each found once and kept on disk.

    Called with a data set and an index it gives float32 [N, 4] in original pixels, best first, at most `method.count`.
    Entries hold all that the method finds, so that another count needs no new search. A kill at any moment leaves whole
    entries only; one that was damaged later is found out by its checksum and made anew. Can be pickled.

    Args:
        method: finds the regions; its `key` names its settings.
        folder: where entries lie; None for `regions/` in the cache folder.
    """

    def __init__(self, method: RegionMethod, folder: str | Path | None = None) -> None:
        self.method = method
        self.folder = (cache_folder() / "regions" if folder is None else Path(folder)) / method.key
        self._digests: dict[tuple[Any, ...], str] = {}

    def __call__(self, dataset: Dataset, index: int) -> np.ndarray:
        """Regions [N, 4] of image `index`; searched for where no sound entry is kept.

        Raises:
            UserError: the image cannot be read, or the cache folder cannot be written to.
            RCNNError: the disk is full.
        """
        return self._get(dataset, index)[: self.method.count]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": {}}

    def _get(self, dataset: Dataset, index: int) -> np.ndarray:
        """All regions of an image, from its entry if there is one."""
        file = _state(dataset.path(index))
        digest = self._digests.get(file)  # spares decoding an image again that has not been touched since
        pixels = None
        if digest is None:
            pixels = dataset.image(index)
            digest = _digest(pixels)
            if file:
                self._digests[file] = digest
        place = self.folder / f"{digest}.boxes"
        boxes = _read(place)
        if boxes is None:
            boxes = np.asarray(self.method.search(dataset.image(index) if pixels is None else pixels), np.float32)
            _keep(place, boxes)
        return boxes


def fill(
    regions: CachedRegions,
    dataset: Dataset,
    *,
    indices: Sequence[int] | None = None,
    threads: int | None = None,
    done: Callable[[int], Any] = lambda count: None,
    pause: Callable[[], Any] = lambda: None,
) -> None:
    """Finds the regions of images of the data set that the cache does not hold yet.

    Args:
        regions: the cache.
        dataset: whose images.
        indices: which of them; None for all.
        threads: images searched at the same time; None for as many as there are cores.
        done: called with how many of the images are ready, each time there are more.
        pause: called between images; what it raises ends the work, after the images under way are kept.

    Raises:
        UserError, RCNNError: as of `CachedRegions`.
    """
    _sweep(regions.folder)
    threads = threads or cpus()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="rcnn-regions")
    waiting: set[Future[np.ndarray]] = set()
    ready, following = 0, iter(range(len(dataset)) if indices is None else indices)
    try:
        while True:
            pause()
            for index in following:
                waiting.add(pool.submit(regions, dataset, index))
                if len(waiting) == 2 * threads:
                    break
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            ready += len(finished)
            done(ready)
    finally:
        pool.shutdown(cancel_futures=True)


def _state(path: Path | None) -> tuple[Any, ...]:
    """What changes when a file's bytes change; empty for images in memory."""
    if path is None:
        return ()
    try:
        found = os.stat(path)
    except OSError:  # reading it will say why
        return ()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(pixels: np.ndarray) -> str:
    """The name of an image's content: of its size and its uint8 pixels [H, W, 3]."""
    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _read(place: Path) -> np.ndarray | None:
    """The boxes [N, 4] of an entry; None where there is none, or not a sound one."""
    try:
        # zlib's checksum tells a damaged or cut entry.
        return np.frombuffer(bytearray(zlib.decompress(place.read_bytes())), np.float32).reshape(-1, 4)
    except (OSError, zlib.error, ValueError):
        return None


def _keep(place: Path, boxes: np.ndarray) -> None:
    """Writes an entry beside its place and renames it: whole or not at all.

    Not flushed to disk one by one: what a power cut leaves is told by the checksum.
    """
    beside = place.with_name(f"{place.stem}.{os.getpid()}-{threading.get_ident()}.part")
    with telling(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(zlib.compress(np.ascontiguousarray(boxes, np.float32).tobytes(), 1))
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    with contextlib.suppress(OSError):
        for part in folder.glob("*.part"):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink(missing_ok=True)
