"""What every detector shares: losses and predictions are two methods, and a prediction does not depend on its batch.

Letters: B images, D detections, H W padded height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rcnn.data import read_image, resize
from rcnn.data.images import to_rgb
from rcnn.detectors.detections import Detections
from rcnn.errors import UserError
from rcnn.structures import Batch, DetectionBatch, ImageBatch, padded

Precision = Literal["auto", "fp32", "bf16"]
Source = str | Path | np.ndarray | Tensor | Image.Image

# Candidates above the score that go into the last NMS; an image with more is done again with four times as many.
CAPACITY = 4096


class Detector(nn.Module):
    """A trained or trainable detector of named classes.

    Subclasses build their parts and write `losses` and `detect`; users call `predict`.

    Attributes:
        system: its name, such as "faster-rcnn/resnet18-fpn".
        classes: class names; labels are indices into them.
        options: the frozen dataclass of settings that it was built from; has `image_size`, the shorter and the longest
            side in pixels that images are resized to.
        precision: "fp32", "bf16", or "auto": bf16 on GPUs that have it, else fp32.
    """

    def __init__(self, system: str, classes: Sequence[str], options: Any) -> None:
        super().__init__()
        self.system = system
        self.classes = tuple(classes)
        self.options = options
        self.precision: Precision = "auto"

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars of a batch; those named `loss…` are to be summed, the others only to be looked at."""
        raise NotImplementedError

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The same as `losses`, where wrappers such as DistributedDataParallel hook in."""
        return self.losses(batch, generator)

    def detect(self, images: ImageBatch, *, score: float | None = None, capacity: int = CAPACITY) -> DetectionBatch:
        """Detections [B, D] of a padded batch in pixels of the network's input.

        Args:
            images: the batch.
            score: the lowest score wanted; None for the model's own.
            capacity: candidates that go into the last NMS; more raise the image's `overflow` flag.
        """
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that runs the networks in the model's `precision`."""
        kind = self.device.type
        bf16 = self.precision == "bf16" or (
            self.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return torch.autocast(kind, torch.bfloat16, enabled=bf16)

    def predict(
        self, images: Source | Iterable[Source], score: float | None = 0.05, batch_size: int = 8
    ) -> list[Detections]:
        """Detections of each image, in the order given.

        Args:
            images: one or many: paths, PIL images, numpy [H, W, 3] uint8 RGB, or tensors [3, H, W] (uint8 0–255 or
                floating 0–1); sizes may be mixed.
            score: the lowest score to report; None for the model's own setting.
            batch_size: the most images run at once; images of equal padded shape run together, and an image's result
                does not depend on its company.
        """
        if isinstance(images, str | Path | np.ndarray | Tensor | Image.Image):
            images = [images]
        found = dict(self.stream(images, score=score, batch_size=batch_size))
        return [found[index] for index in range(len(found))]

    def stream(
        self, images: Iterable[Source], score: float | None = 0.05, batch_size: int = 8
    ) -> Iterator[tuple[int, Detections]]:
        """Like `predict`, giving (index, detections) as they are done; holds few images at a time."""
        waiting: dict[tuple[int, int], list[_Waiting]] = {}
        for index, source in enumerate(images):
            name, pixels = _read(source)
            resized = resize(pixels, *self.options.image_size)  # [3, h, w]
            shape = (padded(resized.shape[1]), padded(resized.shape[2]))
            group = waiting.setdefault(shape, [])
            # A file can be read again; keeping the pixels of many large ones could fill the memory.
            group.append(_Waiting(index, name, pixels.shape[:2], None if name else pixels, resized))
            if len(group) == batch_size:
                yield from self._run(waiting.pop(shape), shape, score)
        for shape, group in waiting.items():
            yield from self._run(group, shape, score)

    def _run(
        self, group: list[_Waiting], shape: tuple[int, int], score: float | None
    ) -> Iterator[tuple[int, Detections]]:
        """Detections of images of one padded shape, carried back to each original's pixels."""
        pixels = torch.zeros(len(group), 3, *shape, dtype=torch.uint8)
        for slot, image in zip(pixels, group, strict=True):
            slot[:, : image.resized.shape[1], : image.resized.shape[2]] = image.resized
        sizes = torch.tensor([image.resized.shape[1:] for image in group], dtype=torch.float32)
        result = self.detect_all(ImageBatch(pixels, sizes).to(self.device), score=score).to("cpu")
        for row, image in enumerate(group):
            height, width = image.size
            real = result.valid[row]
            scale = torch.tensor([width / image.resized.shape[2], height / image.resized.shape[1]]).repeat(2)
            limit = torch.tensor([width, height], dtype=torch.float32).repeat(2)
            boxes = torch.minimum(result.boxes[row][real] * scale, limit).numpy()  # [D, 4]
            scores, labels = result.scores[row][real].numpy(), result.labels[row][real].numpy()
            found = Detections(boxes, scores, labels, self.classes, image.name, width, height, image.pixels)
            yield image.index, found

    def detect_all(self, images: ImageBatch, *, score: float | None = None) -> DetectionBatch:
        """`detect` in evaluation mode and the model's precision, done again with more room where it overflowed."""
        capacity = CAPACITY
        with evaluating(self), torch.inference_mode(), self.autocast():
            result = self.detect(images, score=score, capacity=capacity)
            while bool(result.overflow.any()):
                capacity *= 4
                result = self.detect(images, score=score, capacity=capacity)
        return result


@dataclass
class _Waiting:
    """An image that waits for company of its padded shape: its place, name, [H, W] and, if unnamed, its pixels."""

    index: int
    name: str
    size: tuple[int, ...]
    pixels: np.ndarray | None
    resized: Tensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, stored statistics) inside the block; afterwards every module's mode as before."""
    before = [(module, module.training) for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _read(source: Source) -> tuple[str, np.ndarray]:
    """A name for messages and [H, W, 3] uint8 RGB pixels of whatever the user gave."""
    if isinstance(source, str | Path):
        return str(source), read_image(source)
    if isinstance(source, Image.Image):
        return "", to_rgb(source)
    if isinstance(source, Tensor):
        if source.ndim != 3 or source.shape[0] != 3:
            raise UserError(f"expected an image tensor of shape [3, H, W], got {list(source.shape)}")
        if source.is_floating_point():
            source = (source.clamp(0, 1) * 255).round().to(torch.uint8)
        source = source.permute(1, 2, 0).cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or 0 in source.shape:
            raise UserError(
                f"expected an image array [H, W, 3] of uint8 RGB, got {list(source.shape)} of {source.dtype}"
            )
        return "", np.ascontiguousarray(source)  # a flipped view, such as BGR turned to RGB, is no tensor
    raise UserError(f"expected a path, a PIL image, an array or a tensor, got {type(source).__name__}")
