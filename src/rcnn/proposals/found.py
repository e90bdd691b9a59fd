"""What a user gets who asks for the regions of one image. Letters: N regions, H W height and width in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rcnn.data.pictures import Mark, draw_marks


@dataclass
class FoundRegions:
    """Regions of one image, best first.

    Attributes:
        boxes: [N, 4] float32 `x1 y1 x2 y2` in pixels of the original image.
        image: the file's path as it was given, or "" for images that came as arrays.
        pixels: [H, W, 3] uint8 RGB, upright.
    """

    boxes: np.ndarray
    image: str
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def height(self) -> int:
        """H."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.pixels.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in the form of `rcnn propose --json`: image, width, height, boxes."""
        boxes = [[round(side, 2) for side in box] for box in self.boxes.tolist()]
        return {"image": self.image, "width": self.width, "height": self.height, "boxes": boxes}

    def picture(self, count: int = 50) -> Any:
        """The image with the best `count` regions drawn on it, the first in red, later ones ever bluer: `PIL.Image`."""
        boxes = self.boxes[:count]
        shares = np.arange(len(boxes)) / max(len(boxes) - 1, 1)
        colours = [(round(230 * (1 - share)), 70, round(60 + 170 * share)) for share in shares.tolist()]
        marks = [Mark(box, "", colour) for box, colour in zip(boxes.tolist(), colours, strict=True)]
        return draw_marks(self.pixels, marks[::-1])
