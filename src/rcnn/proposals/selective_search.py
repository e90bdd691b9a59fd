"""Selective Search (Uijlings et al. 2013): regions grow from small ones by merging the most similar neighbours.

No one grouping suits all objects, so several strategies run, which differ in colour space, in the size of the initial
regions and in what counts as similar; every region that any of them ever forms proposes its bounding box. What
strategies have in common is done once: the graph's edges are sorted once for a colour space, and a segmentation and its
histograms serve all similarities. Letters: H W height and width in pixels, N regions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from rcnn import kernels
from rcnn.errors import UserError, nearest
from rcnn.proposals.method import RegionMethod

# Part of every key: raise it when the same settings find other regions.
VERSION = 2


class Similarity(NamedTuple):
    """Which of the four similarities are summed."""

    colour: bool
    texture: bool
    size: bool
    fill: bool


ALL = Similarity(True, True, True, True)
WITHOUT_COLOUR = Similarity(False, True, True, True)
FILL = Similarity(False, False, False, True)
SIZE = Similarity(False, False, True, False)


class Strategies(NamedTuple):
    """A mode: every colour space with every k (the scale of the initial regions) and every similarity."""

    spaces: tuple[str, ...]
    scales: tuple[int, ...]
    similarities: tuple[Similarity, ...]


MODES = {
    "single": Strategies(("hsv",), (100,), (ALL,)),
    "fast": Strategies(("hsv", "lab"), (50, 100), (ALL, WITHOUT_COLOUR)),
    "quality": Strategies(
        ("hsv", "lab", "rgi", "hue", "intensity"), (50, 100, 150, 300), (ALL, WITHOUT_COLOUR, FILL, SIZE)
    ),
}


@dataclass(frozen=True)
class SelectiveSearchOptions:
    """Settings of Selective Search.

    Attributes:
        mode: which strategies run: "single" (one), "fast" (8) or "quality" (80).
        sigma: of the Gaussian that smooths the image before it is cut into initial regions, in pixels.
        min_side: regions with a shorter side are dropped, in pixels of the image that is searched.
        overlap: IoU with a better ranked region above which one is dropped; at 1, as published, only equal ones are.
        width: the image is resized to this width first, as R-CNN did to 500; None for its own.
        seed: of the random part of the ranking.
    """

    mode: Literal["single", "fast", "quality"] = "fast"
    sigma: float = 0.8
    min_side: float = 20.0
    overlap: float = 0.875
    width: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"Selective Search has no mode '{self.mode}'{nearest(self.mode, MODES)}")
        for name in ("sigma", "min_side", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"Selective Search's {name} = {getattr(self, name)}: expected a number from 0 on")
        if not 0 < self.overlap <= 1:
            raise UserError(f"Selective Search's overlap = {self.overlap}: expected an IoU above 0, at most 1")
        if self.width is not None and self.width < 1:
            raise UserError(f"Selective Search's width = {self.width}: expected pixels from 1 on, or None")


class SelectiveSearch(RegionMethod):
    """Selective Search with its options; called with pixels [H, W, 3] it gives regions [N, 4], best first."""

    def __init__(self, options: SelectiveSearchOptions | None = None, *, count: int | None = None) -> None:
        self.options, self.count = options or SelectiveSearchOptions(), count

    @property
    def key(self) -> str:
        """A digest of the settings and of the algorithm's version."""
        settings = sorted(dataclasses.asdict(self.options).items())
        settings = [(name, float(value) if isinstance(value, int) else value) for name, value in settings]  # 20 is 20.0
        digest = hashlib.sha256(f"selective-search {VERSION} {settings}".encode()).hexdigest()[:16]
        return f"selective-search-{self.options.mode}-{digest}"

    def search(self, pixels: np.ndarray) -> np.ndarray:
        """All regions float32 [N, 4] of an image uint8 RGB [H, W, 3], in its pixels, best first."""
        options, (height, width) = self.options, pixels.shape[:2]
        searched = pixels if options.width is None else _at_width(pixels, options.width)
        boxes = rank(hierarchies(searched, MODES[options.mode], options.sigma), options.min_side, options.seed)
        boxes = distinct(boxes.astype(np.float32), options.overlap)
        return boxes * np.array([width / searched.shape[1], height / searched.shape[0]] * 2, np.float32)


def hierarchies(image: np.ndarray, strategies: Strategies, sigma: float) -> list[np.ndarray]:
    """The boxes int32 [2R - 1, 4] of each strategy's regions: its R initial ones first, the whole image last.

    Args:
        image: [H, W, 3] uint8 RGB.
        strategies: their product is run, over threads.
        sigma: of the smoothing, in pixels.
    """
    edges: dict[str, kernels.Edges] = {}
    numbers: dict[str, np.ndarray] = {}
    found: dict[tuple[str, int], list[np.ndarray]] = {}

    def prepare(space: str) -> None:
        planes = kernels.convert(image, space)
        edges[space] = kernels.sorted_edges(kernels.smooth(planes, sigma))
        numbers[space] = kernels.bin_numbers(planes)

    def grow(k: int, space: str) -> None:
        regions = kernels.segment(edges[space], k, k)
        looks = kernels.histograms(regions, numbers[space])
        found[space, k] = [kernels.group(regions, looks, **terms._asdict()) for terms in strategies.similarities]

    run = kernels.array_form().run
    run([(prepare, space) for space in strategies.spaces])
    run([(grow, k, space) for k in strategies.scales for space in strategies.spaces])
    return [boxes for space in strategies.spaces for k in strategies.scales for boxes in found[space, k]]


def rank(hierarchies: list[np.ndarray], min_side: float, seed: int) -> np.ndarray:
    """The boxes int32 [N, 4] of all hierarchies [2R - 1, 4], each once, those with a shorter side than `min_side` not.

    They are ranked by position in the hierarchy, counted from the whole image, times a random number (Uijlings et al.
    2013, section 3.3): else the large ones of all strategies would come first.
    """
    boxes = np.concatenate(hierarchies)
    position = np.concatenate([np.arange(len(found), 0, -1) for found in hierarchies])
    rank = np.random.default_rng(seed).random(len(boxes)) * position
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) >= min_side)
    boxes = boxes[kept[np.argsort(rank[kept], kind="stable")]]
    # The four corners of a box as one number; of equal ones `unique` gives the first, which has the best rank.
    key = boxes.astype(np.uint16).view(np.uint64)[:, 0]
    return boxes[np.sort(np.unique(key, return_index=True)[1])]


def distinct(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """The boxes float32 [N, 4], best first, that overlap no better one by an IoU above `overlap`.

    Strategies agree on many a region but for some pixels; without the repeats as many regions cover more objects.
    """
    if overlap == 1 or not len(boxes):
        return boxes
    ranked = torch.arange(len(boxes), 0, -1, dtype=torch.float32)[None]
    index, count = kernels.nms(
        torch.from_numpy(boxes)[None],
        ranked,
        torch.ones_like(ranked, dtype=torch.bool),
        threshold=overlap,
        capacity=len(boxes),
    )
    return boxes[index[0, : int(count)].numpy()]


def _at_width(pixels: np.ndarray, width: int) -> np.ndarray:
    """The image [H, W, 3] at another width, its sides in the same proportion."""
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
