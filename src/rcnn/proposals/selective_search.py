"""Selective Search (Uijlings et al. 2013): regions grow from small ones by merging the most similar neighbours.

Letters: H W height and width of the image in pixels, N regions.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rcnn.proposals.method import RegionMethod

# Part of every key: raise it when the same settings find other regions.
VERSION = 0


@dataclass(frozen=True)
class SelectiveSearchOptions:
    """Settings of Selective Search (section 1 of the lineage).

    Attributes:
        mode: "single", "fast" or "quality": how many strategies run.
        sigma: of the Gaussian that smooths the image before it is cut into initial regions, in pixels.
        min_side: regions with a shorter side are dropped, in pixels of the image that is searched.
        width: the image is resized to this width first, as R-CNN did to 500; None for its own.
        seed: of the random part of the ranking.
    """

    mode: Literal["single", "fast", "quality"] = "fast"
    sigma: float = 0.8
    min_side: float = 20.0
    width: int | None = None
    seed: int = 0


class SelectiveSearch(RegionMethod):
    """Selective Search with its options; called with pixels [H, W, 3] it gives regions [N, 4], best first."""

    def __init__(self, options: SelectiveSearchOptions = SelectiveSearchOptions(), *, count: int | None = None) -> None:
        self.options, self.count = options, count

    @property
    def key(self) -> str:
        """A digest of the settings and of the algorithm's version."""
        settings = repr(sorted(dataclasses.asdict(self.options).items()))
        digest = hashlib.sha256(f"selective-search {VERSION} {settings}".encode()).hexdigest()[:16]
        return f"selective-search-{self.options.mode}-{digest}"

    def search(self, pixels: np.ndarray) -> np.ndarray:
        """All regions float32 [N, 4] of an image uint8 RGB [H, W, 3]; a grid of windows until the kernels are here."""
        height, width = pixels.shape[:2]
        boxes = []
        for part in (1, 2, 4, 8):
            for y in np.arange(0, part - 0.5, 0.5):
                for x in np.arange(0, part - 0.5, 0.5):
                    boxes.append((x * width / part, y * height / part, (x + 1) * width / part, (y + 1) * height / part))
        return np.asarray(boxes, np.float32).clip(0, [width, height, width, height]).astype(np.float32)
