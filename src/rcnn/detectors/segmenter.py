"""What every model of label maps shares: a score for each class and pixel, and the best class in the original's pixels.

Letters: B images, C = K + 1 scores, background last, H W padded height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rcnn.detectors.base import Model, Waiting, batched
from rcnn.detectors.segmentations import Segmentation
from rcnn.heads.segmentation import best_classes
from rcnn.structures import Batch, ImageBatch


class Segmenter(Model[Segmentation]):
    """A model that says the class of every pixel.

    Subclasses build their parts and write `losses` and `scores`; users call `predict`.
    """

    figures = ("mIoU", "pixel_accuracy", "mean_accuracy", "fw_IoU")

    def scores(self, images: ImageBatch) -> Tensor:
        """Scores float32 [B, C, H, W] of the classes and background for each pixel of a padded batch."""
        raise NotImplementedError

    def segment(self, images: ImageBatch) -> Tensor:
        """`scores` in evaluation mode and the model's precision, without gradient."""
        form = self.form
        with form.predicting():
            return form.scores(images)

    def judge(
        self, batch: Batch, generator: torch.Generator | None = None, *, score: float | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses and scores [B, C, H, W] of a batch in evaluation mode; its maps are made once."""
        with self.predicting():
            return self.losses(batch, generator), self.scores(batch.images)

    def _run(
        self, group: list[Waiting], shape: tuple[int, int], score: float | None
    ) -> Iterator[tuple[int, Segmentation]]:
        """The label maps of images of one padded shape, in each original's pixels."""
        scores = self.segment(batched(group, shape).to(self.device))
        for row, image in zip(scores, group, strict=True):
            height, width = image.size
            labels = labels_in(row, image.resized.shape[1:], image.size)
            yield image.index, Segmentation(labels, self.classes, image.name, width, height, image.pixels)


def labels_in(scores: Tensor, size: Sequence[float], original: Sequence[int]) -> np.ndarray:
    """The label map uint8 of an image out of its scores [C, H, W], in pixels of the original image.

    Args:
        scores: of the padded image.
        size: height and width in the network; `original`: on disk.
    """
    height, width = (int(side) for side in size)
    return best_classes(scores[:, :height, :width], original).cpu().numpy()
