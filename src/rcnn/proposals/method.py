"""What a way of finding regions has in common with any other: it can be called, cut to a count, and named.

Letters: H W height and width of an image in pixels, N regions.
"""

from __future__ import annotations

import numpy as np


class RegionMethod:
    """Finds regions in an image by its pixels alone. Subclasses give `key` and `search`.

    Attributes:
        count: the most regions that a call gives; None for all.
    """

    count: int | None = None

    @property
    def key(self) -> str:
        """A digest of everything but the pixels that the regions depend on: method, settings, version."""
        raise NotImplementedError

    def search(self, pixels: np.ndarray) -> np.ndarray:
        """All regions float32 [N, 4] of an image uint8 RGB [H, W, 3], in its pixels, best first."""
        raise NotImplementedError

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The best regions float32 [N, 4] of an image uint8 RGB [H, W, 3], in its pixels, at most `count`."""
        return self.search(pixels)[: self.count]
