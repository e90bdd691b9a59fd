"""What a user gets for one image of a model of label maps: the class of every pixel, to save and to pass on.

Letters: K classes, H W the original image's height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data import read_image
from rcnn.data.semantic import BACKGROUND_NAME, in_file, overlay
from rcnn.detectors.saving import save_found
from rcnn.errors import UserError
from rcnn.files import writing


@dataclass
class Segmentation:
    """The label map of one image.

    Attributes:
        labels: [H, W] uint8 in 0 … K, indices into `classes`; K is background.
        classes: the model's class names.
        image: the file's path as it was given, or "" for images that came as arrays.
        width: of the original image in pixels (after its EXIF orientation).
        height: likewise.
        pixels: [H, W, 3] uint8 RGB where the image came as an array; a file is read again when it is drawn on.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    image: str
    width: int
    height: int
    pixels: np.ndarray | None = None

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels of each class that is there, and of background, as fractions to 1e-5."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes) + 1)
        names = (*self.classes, BACKGROUND_NAME)
        return {name: round(int(n) / self.labels.size, 5) for name, n in zip(names, counts, strict=True) if n}

    def to_dict(self, labels: str | None = None) -> dict[str, Any]:
        """Plain values for JSON, in the form of `rcnn predict --json`, with no detections.

        `labels` is the label map's file, if written.
        """
        found = {"shares": self.shares, "labels": labels}
        image = {"image": self.image, "width": self.width, "height": self.height}
        return {**image, "detections": [], "segmentation": found}

    def picture(self) -> Image.Image:
        """The image with its classes laid over it, in VOC's colours."""
        pixels = read_image(self.image) if self.pixels is None else self.pixels
        return Image.fromarray(overlay(pixels, self.labels, len(self.classes)))

    def save_labels(self, path: str | Path) -> Path:
        """Writes the label map as a palette PNG in VOC's form: 0 background, n the n-th class.

        Raises:
            UserError: another suffix than .png, or a place that cannot be written to.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"cannot save a label map as '{path.name}': expected .png")
        with writing(path) as beside:
            in_file(self.labels, len(self.classes)).save(beside)
        return path

    def save(self, path: str | Path) -> Path:
        """Writes the picture (.jpg, .png, .webp) or the values (.json), whole or not at all; returns the path.

        Raises:
            UserError: another suffix, or a place that cannot be written to.
        """
        return save_found(self, path, "a segmentation")
