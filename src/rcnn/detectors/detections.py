"""What a user gets for one image: boxes, scores and classes in pixels of the original, to save and to pass on.

Letters: D detections, H W the original image's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn import rle
from rcnn.data import draw_boxes, read_image
from rcnn.detectors.saving import save_found
from rcnn.errors import UserError


@dataclass
class Detections:
    """Detections of one image, best first.

    Attributes:
        boxes: [D, 4] float32 `x1 y1 x2 y2` in pixels of the original image.
        scores: [D] float32 in [0, 1].
        labels: [D] int64, indices into `classes`.
        classes: the model's class names.
        image: the file's path as it was given, or "" for images that came as arrays.
        width: of the original image in pixels (after its EXIF orientation).
        height: likewise.
        pixels: [H, W, 3] uint8 RGB where the image came as an array; a file is read again when it is drawn on.
        segments: D masks as COCO's RLE, the counts as text, for models with masks; else None. `masks` draws them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    image: str
    width: int
    height: int
    pixels: np.ndarray | None = None
    segments: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[label] for label in self.labels]

    @property
    def masks(self) -> np.ndarray | None:
        """[D, H, W] bool for models with masks, else None; drawn when asked for, which takes a byte a pixel each."""
        if self.segments is None:
            return None
        drawn = np.zeros((len(self), self.height, self.width), bool)
        for mask, segment in zip(drawn, self.segments, strict=True):
            mask[:] = rle.decode(segment)
        return drawn

    def above(self, score: float) -> Detections:
        """The detections of at least `score`."""
        return self.only(self.scores >= score)

    def only(self, keep: np.ndarray) -> Detections:
        """The detections that `keep` [D] bool names."""
        segments = None if self.segments is None else [self.segments[d] for d in np.flatnonzero(keep)]
        boxes, scores, labels = self.boxes[keep], self.scores[keep], self.labels[keep]
        return replace(self, boxes=boxes, scores=scores, labels=labels, segments=segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in the form of `rcnn predict --json`: image, width, height, detections."""
        found: list[dict[str, Any]] = [
            {"box": box, "score": score, "label": self.classes[label], "class_id": label}
            for box, score, label in zip(*self._rows(), strict=True)
        ]
        for entry, segment in zip(found, self.segments or (), strict=False):
            entry["mask"] = segment
        return {"image": self.image, "width": self.width, "height": self.height, "detections": found}

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results: boxes x y width height, masks as RLE; `category_ids` of the K classes (default: index + 1)."""
        ids = list(category_ids) if category_ids is not None else [index + 1 for index in range(len(self.classes))]
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score, label in zip(*self._rows(), strict=True)
        ]
        for row, segment in zip(rows, self.segments or (), strict=False):
            row["segmentation"] = segment
        return rows

    def _rows(self) -> tuple[list[list[float]], list[float], list[int]]:
        """Boxes to 0.01 px, scores to 1e-5 and labels as plain numbers."""
        boxes = [[round(side, 2) for side in box] for box in self.boxes.tolist()]
        return boxes, [round(score, 5) for score in self.scores.tolist()], self.labels.tolist()

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections` (needs the `supervision` extra)."""
        try:
            import supervision
        except ImportError as error:
            raise UserError("to_supervision needs the package supervision: pip install 'rcnn[supervision]'") from error
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32).reshape(-1, 4),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            mask=self.masks,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def picture(self) -> Any:
        """The image with its detections drawn on it, a `PIL.Image`."""
        pixels = read_image(self.image) if self.pixels is None else self.pixels
        return draw_boxes(pixels, self.boxes, self.labels, self.scores, self.classes, segments=self.segments)

    def save(self, path: str | Path) -> Path:
        """Writes the picture (.jpg, .png, .webp) or the values (.json), whole or not at all; returns the path.

        Raises:
            UserError: another suffix, or a place that cannot be written to.
        """
        return save_found(self, path, "detections")
