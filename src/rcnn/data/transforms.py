"""Resizing, and augmentation of images together with what is in them.

One rule gives an image's size in the network (Girshick 2015, section 5.2: the shorter side fixed, the longer one
capped). Augmentation is torchvision's v2 transforms on image and boxes at once, with an index that says afterwards
which objects are left, so that any field kept per object stays aligned. Letters: H W source size, h w resized size,
G objects, N regions (proposals that come from outside the network, carried along as the objects are).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rcnn import boxes as box_ops
from rcnn.data.segments import Frame
from rcnn.errors import UserError

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth

# How images are resized: as this library does, or as torchvision's detectors do.
ResizeRule = Literal["antialias", "torchvision"]
# What a zoomed-out image is surrounded with: the mean colour of photographs, which normalisation takes to zero.
SURROUND = (124, 116, 104)
# Boxes whose sides are shorter than this after augmentation, in pixels, are dropped.
LEAST_SIDE = 1.0
# Images with a shorter side are not cropped: of the smallest window, 0.3 of it, nothing would be left.
LEAST_CROPPED = 8


def resized_size(height: int, width: int, short: int, long: int, rule: ResizeRule = "antialias") -> tuple[int, int]:
    """Height and width in pixels of an image of that size in the network.

    The scale is min(short / shorter side, long / longer side); each side is rounded to the nearest pixel, halves up,
    and is at least 1. Computed in whole numbers, so no float error can move a side by a pixel. torchvision's rule cuts
    fractions off instead, and what float error moves is part of it.
    """
    smaller, larger = min(height, width), max(height, width)
    if rule == "torchvision":
        scale = min(short / smaller, long / larger)
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)
    up, down = (short, smaller) if short * larger <= long * smaller else (long, larger)
    return max((2 * height * up + down) // (2 * down), 1), max((2 * width * up + down) // (2 * down), 1)


def resize(image: np.ndarray | Tensor, short: int, long: int, rule: ResizeRule = "antialias") -> Tensor:
    """Brings an image to the size of `resized_size` by bilinear interpolation.

    Args:
        image: uint8 array [H, W, 3] or uint8 tensor [3, H, W]; left as it is.
        short: wanted length of the shorter side in pixels.
        long: most pixels of the longer side.
        rule: "antialias" averages over what a smaller image merges, and rounds to whole values; "torchvision" (its
            detectors' transform) reads the four nearest pixels alone, and rounds nothing.

    Returns:
        [3, h, w] in memory of its own, laid out channels-last where the input was: uint8, or by torchvision's rule
        float32 from 0 to 255.
    """
    if isinstance(image, np.ndarray):
        # torch has no read-only tensors; a memory-mapped image is copied rather than warned about.
        image = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    height, width = image.shape[-2:]
    size = resized_size(height, width, short, long, rule)
    if rule == "torchvision":
        return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    if size == (height, width):
        return image.clone()
    return functional.resize_image(image[None], list(size), antialias=True)[0]


def resize_truth(truth: Truth, before: tuple[int, int], after: tuple[int, int]) -> Truth:
    """The objects of an image whose (height, width) in pixels goes from `before` to `after`; no areas."""
    (h0, w0), (h1, w1) = before, after
    factors = np.array([w1 / w0, h1 / h0, w1 / w0, h1 / h0], np.float64)
    boxes = (truth.boxes * factors).astype(np.float32)
    frame = (truth.frame or Frame(before)).resized(before, after)
    return replace(truth, boxes=boxes, areas=None, frame=frame)


def resize_regions(regions: np.ndarray, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
    """Regions [N, 4] of an image whose (height, width) in pixels goes from `before` to `after`: float32 [≤ N, 4].

    They are cut at the image's edges; those then less than `LEAST_SIDE` wide or high are dropped.
    """
    (h0, w0), (h1, w1) = before, after
    scaled = regions * np.array([w1 / w0, h1 / h0, w1 / w0, h1 / h0], np.float64)
    scaled = np.clip(scaled, 0, [w1, h1, w1, h1]).astype(np.float32)
    return scaled[((scaled[:, 2:] - scaled[:, :2]) >= LEAST_SIDE).all(1)]


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a training image; the default is the classic recipe, a flip (Girshick 2015, 2.3).

    Applied in this order: IoU crop, zoom-out, resize, flips, photometric changes. Images without objects take part in
    all but the IoU crop, which needs one to look at.

    Attributes:
        flip: probability of a left–right flip; 0 for text, digits and the like.
        vertical_flip: probability of a top–bottom flip.
        scale: the shorter side is multiplied by a factor from this range, one for each batch.
        shorter_sides: one of these lengths in pixels, drawn for each batch, is the shorter side instead of the model's;
            the longest changes in proportion (Girshick 2015, section 5.2: 480, 576, 688, 864, 1200). Empty: the
            model's.
        photometric: brightness, contrast and saturation are each multiplied by a factor from 1 − x … 1 + x.
        iou_crop: probability of a crop that keeps enough of some object (Liu et al. 2016, SSD, section 2.2).
        zoom_out: probability of a wider canvas around the image (SSD, section 3.6).
        zoom_out_side: most times that canvas's sides are longer than the image's.
        visible: an object of which a crop leaves a smaller share is ignored: neither hit nor miss.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shorter_sides: tuple[int, ...] = ()
    photometric: float = 0.0
    iou_crop: float = 0.0
    zoom_out: float = 0.0
    zoom_out_side: float = 2.0
    visible: float = 0.3

    def __post_init__(self) -> None:
        for name in ("flip", "vertical_flip", "photometric", "iou_crop", "zoom_out", "visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name} = {getattr(self, name)}: expected a number from 0 to 1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"augment.scale = {self.scale}: expected two positive factors, the smaller first")
        if not all(side > 0 for side in self.shorter_sides):
            raise UserError(f"augment.shorter_sides = {self.shorter_sides}: expected lengths above 0")
        if not self.zoom_out_side >= 1:
            raise UserError(f"augment.zoom_out_side = {self.zoom_out_side}: expected 1 or more")

    @classmethod
    def classic(cls) -> Self:
        """The published recipes' only augmentation: a left–right flip of half the images."""
        return cls()

    @classmethod
    def modern(cls) -> Self:
        """Flip, scale and photometric jitter, and now and then a crop or a wider canvas."""
        return cls(scale=(0.8, 1.2), photometric=0.3, iou_crop=0.2, zoom_out=0.1)

    @classmethod
    def none(cls) -> Self:
        """Images as they are."""
        return cls(flip=0.0)

    def apply(
        self, image: np.ndarray, truth: Truth, *, short: int, long: int, seed: int, rule: ResizeRule = "antialias"
    ) -> tuple[Tensor, Truth]:
        """Augments and resizes one image; a pure function of its arguments.

        Args:
            image: uint8 [H, W, 3] RGB; left as it is.
            truth: its objects, in pixels.
            short: as of `resize`, the batch's scale factor included.
            long: as of `resize`.
            seed: of all random choices, such as `seeds.counter_seed(seed, step, position)`.
            rule: as of `resize`; the values are rounded whatever it is.

        Returns:
            uint8 [3, h, w] and the objects left in it, inside the image and at least `LEAST_SIDE` wide and high.
        """
        none = np.empty((0, 4), np.float32)
        return self.apply_with_regions(image, truth, none, short=short, long=long, seed=seed, rule=rule)[:2]

    def apply_with_regions(
        self,
        image: np.ndarray,
        truth: Truth,
        regions: np.ndarray,
        *,
        short: int,
        long: int,
        seed: int,
        rule: ResizeRule = "antialias",
    ) -> tuple[Tensor, Truth, np.ndarray]:
        """`apply` that carries `regions` [N, 4] along: what is left of them, float32 [≤ N, 4], comes third.

        What is done to the image does not depend on its regions.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._apply(image, truth, regions, short, long, rule)

    def _apply(
        self, image: np.ndarray, truth: Truth, regions: np.ndarray, short: int, long: int, rule: ResizeRule
    ) -> tuple[Tensor, Truth, np.ndarray]:
        """`apply_with_regions` with the random state at hand."""
        pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
        regions = resize_regions(regions, image.shape[:2], image.shape[:2])  # none may hang over into a wider canvas
        truth = replace(truth, frame=truth.frame or Frame(tuple(image.shape[:2])))
        # Objects first, then regions: whatever moves boxes moves both.
        sample = _sample(pixels, torch.cat((torch.as_tensor(truth.boxes), torch.as_tensor(regions))))
        if _drawn(self.iou_crop):
            sample, truth = self._cropped(sample, truth)
        if _drawn(self.zoom_out):
            sample, truth = self._zoomed_out(sample, truth)

        before = sample["image"].shape[-2:]
        resized = resize(sample["image"].as_subclass(Tensor), short, long, rule)  # [3, h, w]
        if resized.is_floating_point():
            resized = resized.round().to(torch.uint8)  # colour arithmetic takes floats for shares of full brightness
        if self.photometric:
            resized = resized.contiguous()  # colour arithmetic is several times slower channels-last
        sides = functional.resize(sample["boxes"], list(resized.shape[-2:]))
        sample = {**sample, "image": tv_tensors.Image(resized), "boxes": sides}
        frame = (truth.frame or Frame(before)).resized(before, resized.shape[-2:])
        sample, truth = self._mirrored(sample, replace(truth, frame=frame))

        sample = v2.Compose(
            [
                v2.ColorJitter(*[self.photometric] * 3) if self.photometric else v2.Identity(),
                v2.ClampBoundingBoxes(),
                v2.SanitizeBoundingBoxes(LEAST_SIDE, labels_getter=lambda sample: sample["index"]),
            ]
        )(sample)
        boxes, index = sample["boxes"].as_subclass(Tensor).numpy(), sample["index"].numpy()
        is_object = index < len(truth.boxes)
        return (
            sample["image"].as_subclass(Tensor),
            _left(truth, boxes[is_object], index[is_object]),
            boxes[~is_object],
        )

    def _zoomed_out(self, sample: dict[str, Any], truth: Truth) -> tuple[dict[str, Any], Truth]:
        """The sample on a wider canvas."""
        canvas = v2.RandomZoomOut(SURROUND, (1.0, self.zoom_out_side), p=1.0)
        border = canvas.make_params([sample["image"]])["padding"]  # left, top, right, bottom
        wider = functional.pad(sample["image"], border, fill=list(SURROUND))
        sample = {**sample, "image": wider, "boxes": functional.pad(sample["boxes"], border)}
        return sample, replace(truth, frame=truth.frame and truth.frame.moved(-border[0], -border[1]))

    def _mirrored(self, sample: dict[str, Any], truth: Truth) -> tuple[dict[str, Any], Truth]:
        """The sample mirrored left–right and top–bottom, each as it is drawn."""
        height, width = sample["image"].shape[-2:]
        for probability, mirror, extent in (
            (self.flip, functional.horizontal_flip, {"width": width}),
            (self.vertical_flip, functional.vertical_flip, {"height": height}),
        ):
            if torch.rand(1) < probability:
                sample = {**sample, "image": mirror(sample["image"]), "boxes": mirror(sample["boxes"])}
                truth = replace(truth, frame=truth.frame and truth.frame.mirrored(**extent))
        return sample, truth

    def _cropped(self, sample: dict[str, Any], truth: Truth) -> tuple[dict[str, Any], Truth]:
        """The sample in a random window that overlaps some object enough; objects cut too far are ignored."""
        sides = sample["boxes"].as_subclass(Tensor)[: len(truth.boxes)]  # [G, 4]
        real = torch.as_tensor(~truth.ignore)
        if not real.any() or min(sample["image"].shape[-2:]) < LEAST_CROPPED:
            return sample, truth
        window = v2.RandomIoUCrop().make_params([sample["image"], tv_tensors.wrap(sides[real], like=sample["boxes"])])
        if not window:
            return sample, truth
        window = [window[side] for side in ("top", "left", "height", "width")]
        inside = functional.crop(sample["boxes"], *window)
        share = box_ops.area(inside.as_subclass(Tensor)[: len(sides)]) / box_ops.area(sides)
        cut = (share < self.visible).numpy()
        sample = {**sample, "image": functional.crop(sample["image"], *window), "boxes": inside}
        frame = truth.frame and truth.frame.cropped(window[1], window[0], window[3], window[2])
        return sample, replace(truth, difficult=truth.difficult | cut, frame=frame)


def _sample(pixels: Tensor, sides: Tensor) -> dict[str, Any]:
    """Pixels [3, H, W] and boxes [G + N, 4] as torchvision's transforms take them, with an index [G + N] of them."""
    height, width = pixels.shape[-2:]
    boxes = tv_tensors.BoundingBoxes(sides.reshape(-1, 4), format="XYXY", canvas_size=(height, width))  # type: ignore
    return {"image": tv_tensors.Image(pixels), "boxes": boxes, "index": torch.arange(len(boxes))}


def _left(truth: Truth, boxes: np.ndarray, index: np.ndarray) -> Truth:
    """The objects `index` [G'] of `truth`, now at `boxes` [G', 4]; their areas were not carried along."""
    return replace(
        truth,
        boxes=boxes,
        labels=truth.labels[index],
        difficult=truth.difficult[index],
        crowd=truth.crowd[index],
        segments=[truth.segments[i] for i in index.tolist()],
        areas=None,
    )


def _drawn(probability: float) -> bool:
    """True with that probability; draws nothing where it is 0."""
    return probability > 0 and bool(torch.rand(()) < probability)
