"""What every model shares: losses and predictions are two methods, and a prediction does not depend on its batch.

Letters: B images, N regions, D detections, H W padded height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rcnn import kernels, rle
from rcnn.backbones import Backbone
from rcnn.data import read_image, resize
from rcnn.data.collate import collate_regions
from rcnn.data.images import to_rgb
from rcnn.data.transforms import ResizeRule, resize_regions
from rcnn.detectors.detections import Detections
from rcnn.errors import UserError, nearest
from rcnn.kernels.paste import PasteRule
from rcnn.proposals import RegionMethod
from rcnn.structures import Batch, DetectionBatch, ImageBatch, Proposals, padded

Precision = Literal["auto", "fp32", "bf16"]
Source = str | Path | np.ndarray | Tensor | Image.Image
Found = TypeVar("Found")

# Candidates above the score that go into the last NMS; an image with more is done again with four times as many.
CAPACITY = 4096


class Model(nn.Module, Generic[Found]):
    """A trained or trainable network of named classes, whatever it says of an image.

    Subclasses write `losses`, `judge` and `_run`; users call `predict`.

    Attributes:
        system: its name, such as "faster-rcnn/resnet18-fpn".
        classes: class names; labels are indices into them.
        options: the frozen dataclass of settings that it was built from; has `image_size`, the shorter and the longest
            side in pixels that images are resized to.
        parts: what `losses` may be asked for beside all of it, for the stages of a training scheme.
        figures: names of its figures on validation images; the best model is that with the highest first one.
        learns_masks: whether its batches have to come with the masks of objects.
        precision: "fp32", "bf16", or "auto": bf16 on GPUs that have it, else fp32.
        category_ids: the ids of the K classes in the COCO JSON that it learned from; None where there was none.
        quickened: gives the form of the model that predicts in its place (`rcnn.inference`); None for the model itself.
    """

    parts: tuple[str, ...] = ()
    learns_masks: bool = False
    figures: tuple[str, ...] = ()

    def __init__(self, system: str, classes: Sequence[str], options: Any) -> None:
        super().__init__()
        self.system = system
        self.classes = tuple(classes)
        self.options = options
        self.precision: Precision = "auto"
        self.category_ids: tuple[int, ...] | None = None
        self.quickened: Callable[[Self], Self] | None = None

    def losses(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """Scalars of a batch; those named `loss…` are to be summed, the others only to be looked at.

        Args:
            batch: what to learn from.
            generator: of the random draws; None for torch's own.
            part: one of `parts`, or "" for all losses at once.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, generator: torch.Generator | None = None, part: str = "") -> dict[str, Tensor]:
        """The same as `losses`, where wrappers such as DistributedDataParallel hook in."""
        if part and part not in self.parts:
            raise UserError(f"{self.system} has no losses '{part}'{nearest(part, self.parts)}")
        return self.losses(batch, generator, part)

    @property
    def region_method(self) -> RegionMethod | None:
        """What proposes regions [N, 4] of an image [H, W, 3] for the system; None where the network itself does."""
        return None

    @property
    def detection_size(self) -> tuple[int, int]:
        """The shorter and the longest side in pixels of the images that predictions want."""
        return self.options.image_size

    @property
    def resize_rule(self) -> ResizeRule:
        """How images are brought to that size; see `data.transforms.resize`."""
        return "antialias"

    def advice(self, sizes: np.ndarray) -> list[str]:
        """What to say before training on images of `sizes` [N, 2], their height and width in pixels: a line each.

        Raises:
            UserError: the settings cannot work with such images.
        """
        return []

    @property
    def form(self) -> Self:
        """What predicts: the model itself, or its fast form."""
        return self if self.quickened is None else self.quickened(self)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(itertools.chain(self.parameters(), self.buffers())).device  # a fast form has no parameters

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that runs the networks in the model's `precision`."""
        kind = self.device.type
        bf16 = self.precision == "bf16" or (
            self.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return torch.autocast(kind, torch.bfloat16, enabled=bf16)

    def predict(
        self,
        images: Source | Iterable[Source],
        score: float | None = 0.05,
        batch_size: int = 8,
        regions: Iterable[np.ndarray] | None = None,
    ) -> list[Found]:
        """What is found in each image, in the order given: a `Detections`, or a `Segmentation`.

        Args:
            images: one or many: paths, PIL images, numpy [H, W, 3] uint8 RGB, or tensors [3, H, W] (uint8 0–255 or
                floating 0–1); sizes may be mixed.
            score: the lowest score to report; None for the model's own setting. A label map has none.
            batch_size: the most images run at once; images of equal padded shape run together, and an image's result
                does not depend on its company.
            regions: for each image the boxes [N, 4] to look at, in its pixels; None lets the system propose.

        Raises:
            UserError: what is no image, or no array of boxes; fewer or more of them than images.
        """
        one = isinstance(images, str | bytes | Path | np.ndarray | Tensor | Image.Image)
        one = one or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__"))  # if no image, told below
        given = cast(Iterable[Source], [images] if one else images)
        found = dict(self.stream(given, score=score, batch_size=batch_size, regions=regions))
        return [found[index] for index in range(len(found))]

    def stream(
        self,
        images: Iterable[Source],
        score: float | None = 0.05,
        batch_size: int = 8,
        regions: Iterable[np.ndarray] | None = None,
    ) -> Iterator[tuple[int, Found]]:
        """Like `predict`, giving (index, what is found) as they are done; holds few images at a time."""
        if batch_size < 1 or not 0 <= (score or 0) <= 1:
            raise UserError(f"expected a score from 0 to 1 and a batch of 1 or more, got {score} and {batch_size}")
        waiting: dict[tuple[int, int], list[Waiting]] = {}
        for index, (source, around) in enumerate(_paired(images, regions)):
            name, pixels = pixels_of(source)
            if around is None and self.region_method is not None:
                around = self.region_method(pixels)
            resized = resize(pixels, *self.detection_size, self.resize_rule)  # [3, h, w]
            if around is not None:
                around = resize_regions(_as_boxes(around), pixels.shape[:2], resized.shape[1:])
            shape = (padded(resized.shape[1]), padded(resized.shape[2]))
            group = waiting.setdefault(shape, [])
            # A file can be read again; keeping the pixels of many large ones could fill the memory.
            group.append(Waiting(index, name, pixels.shape[:2], None if name else pixels, resized, around))
            if len(group) == batch_size:
                yield from self._run(waiting.pop(shape), shape, score)
        for shape, group in waiting.items():
            yield from self._run(group, shape, score)

    def _run(self, group: list[Waiting], shape: tuple[int, int], score: float | None) -> Iterator[tuple[int, Found]]:
        """What is found in images of one padded shape, carried back to each original's pixels."""
        raise NotImplementedError

    def judge(
        self, batch: Batch, generator: torch.Generator | None = None, *, score: float | None = None
    ) -> tuple[dict[str, Tensor], Any]:
        """Losses and findings of a batch, in evaluation mode, for the validation of a run."""
        raise NotImplementedError

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Inside the block: evaluation mode, the model's precision, no gradients, and a batch's maps are made once."""
        with evaluating(self), torch.inference_mode(), self.autocast(), ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, Backbone):
                    stack.enter_context(module.keeping())
            yield


class Detector(Model[Detections]):
    """A model that finds objects: boxes, classes and scores.

    Subclasses build their parts and write `losses` and `examine`; users call `predict`.

    Attributes:
        mask_threshold: from which probability on a pixel belongs to an object, for systems with masks.
        mask_paste: how masks come back into the image; see `kernels.paste`.
    """

    figures = ("mAP", "AP50", "AP75")
    mask_threshold: float = 0.5
    mask_paste: PasteRule = "exact"

    def detect(
        self,
        images: ImageBatch,
        proposals: Proposals | None = None,
        *,
        score: float | None = None,
        capacity: int = CAPACITY,
    ) -> DetectionBatch:
        """Detections [B, D] of a padded batch in pixels of the network's input.

        Args:
            images: the batch.
            proposals: the regions [B, N] to look at; None where the system proposes by itself.
            score: the lowest score wanted; None for the model's own.
            capacity: candidates that go into the last NMS; more raise the image's `overflow` flag.
        """
        return self.examine(images, proposals)(score=score, capacity=capacity)

    def examine(self, images: ImageBatch, proposals: Proposals | None = None) -> Callable[..., DetectionBatch]:
        """The networks' part of `detect`: what it returns takes `score` and `capacity`, and may be called again."""
        raise NotImplementedError

    def _run(
        self, group: list[Waiting], shape: tuple[int, int], score: float | None
    ) -> Iterator[tuple[int, Detections]]:
        """Detections of images of one padded shape, carried back to each original's pixels."""
        around = [image.regions for image in group if image.regions is not None]
        proposals = collate_regions(around).to(self.device) if around else None
        result = self.detect_all(batched(group, shape).to(self.device), proposals, score=score).to("cpu")
        for row, image in enumerate(group):
            height, width = image.size
            boxes, scores, labels, masks = self.carried_back(result, row, image.resized.shape[1:], image.size)
            found = Detections(boxes, scores, labels, self.classes, image.name, width, height, image.pixels, masks)
            yield image.index, found

    def carried_back(
        self, result: DetectionBatch, row: int, size: Sequence[int], original: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]] | None]:
        """One image out of a batch on the CPU, in pixels of the original image.

        Args:
            result: the batch's detections.
            row: which image.
            size: its height and width in the network; `original`: on disk.

        Returns:
            boxes [D, 4], scores [D], labels [D], and D masks as COCO's RLE, None from systems without.
        """
        real = result.valid[row]
        scale = torch.tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
        limit = torch.tensor([original[1], original[0]], dtype=torch.float32).repeat(2)
        boxes = torch.minimum(result.boxes[row][real] * scale, limit).numpy()
        masks = None
        if result.masks is not None:
            height, width = (int(side) for side in original)
            pasted = kernels.paste(
                result.masks[row][real].numpy(),
                boxes,
                (height, width),
                threshold=self.mask_threshold,
                rule=self.mask_paste,
            )
            masks = [rle.compressed(runs, (height, width)) for runs in pasted]
        return boxes, result.scores[row][real].numpy(), result.labels[row][real].numpy(), masks

    def judge(
        self, batch: Batch, generator: torch.Generator | None = None, *, score: float | None = None
    ) -> tuple[dict[str, Tensor], DetectionBatch]:
        """Losses and detections of a batch, as of `losses` and `detect_all`, in evaluation mode; its maps made once."""
        with self.predicting():
            return self.losses(batch, generator), self.detect_all(batch.images, batch.proposals, score=score)

    def detect_all(
        self, images: ImageBatch, proposals: Proposals | None = None, *, score: float | None = None
    ) -> DetectionBatch:
        """`detect` in evaluation mode and the model's precision, done again with more room where it overflowed."""
        capacity = CAPACITY
        form = self.form
        with evaluating(form), torch.inference_mode(), form.autocast():
            pick = form.examine(images, proposals)
            result = pick(score=score, capacity=capacity)
            while bool(result.overflow.any()):
                capacity *= 4
                result = pick(score=score, capacity=capacity)
        return result


@dataclass
class Waiting:
    """An image that waits for company of its padded shape: its place, name, [H, W], its pixels if unnamed, and regions.

    `resized` [3, h, w] and `regions` [N, 4] are what the network gets.
    """

    index: int
    name: str
    size: tuple[int, ...]
    pixels: np.ndarray | None
    resized: Tensor
    regions: np.ndarray | None


def batched(group: Sequence[Waiting], shape: tuple[int, int]) -> ImageBatch:
    """The images [3, h, w] of a group as one batch [B, 3, H, W], padded to `shape`."""
    pixels = torch.zeros(len(group), 3, *shape, dtype=group[0].resized.dtype)
    for slot, image in zip(pixels, group, strict=True):
        slot[:, : image.resized.shape[1], : image.resized.shape[2]] = image.resized
    return ImageBatch(pixels, torch.tensor([image.resized.shape[1:] for image in group], dtype=torch.float32))


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


def _paired(
    images: Iterable[Source], regions: Iterable[np.ndarray] | None
) -> Iterator[tuple[Source, np.ndarray | None]]:
    """Each image with its regions, if any are given; there must be as many of the one as of the other."""
    if regions is None:
        for image in images:
            yield image, None
        return
    missing: Any = object()
    for image, around in itertools.zip_longest(images, regions, fillvalue=missing):
        if image is missing or around is missing:
            raise UserError("expected one array of regions for each image, got more or fewer of them")
        yield image, around


def _as_boxes(regions: np.ndarray) -> np.ndarray:
    """The regions [N, 4] as an array of finite numbers, none of them being an empty list too."""
    boxes = np.asarray(regions, np.float32)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UserError(f"expected regions as finite boxes [N, 4], got an array {list(boxes.shape)}")
    return boxes


def pixels_of(source: Source) -> tuple[str, np.ndarray]:
    """A name for messages and [H, W, 3] uint8 RGB pixels of whatever the user gave."""
    if isinstance(source, str | Path):
        return str(source), read_image(source)
    if isinstance(source, Image.Image):
        return "", to_rgb(source)
    if isinstance(source, Tensor):
        if source.ndim != 3 or source.shape[0] != 3:
            raise UserError(f"expected an image tensor of shape [3, H, W], got {list(source.shape)}")
        if source.is_floating_point():
            # What was resized may overshoot a little; NaN is neither above nor below.
            if source.numel() and not (source.min() >= -1 and source.max() <= 2):
                raise UserError("expected a floating image tensor of values from 0 to 1; those of 0 to 255 are uint8")
            source = (source.clamp(0, 1) * 255).round().to(torch.uint8)
        source = source.permute(1, 2, 0).cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or 0 in source.shape:
            raise UserError(
                f"expected an image array [H, W, 3] of uint8 RGB, got {list(source.shape)} of {source.dtype}"
            )
        return "", np.ascontiguousarray(source)  # a flipped view, such as BGR turned to RGB, is no tensor
    raise UserError(f"expected a path, a PIL image, an array or a tensor, got {type(source).__name__}")
