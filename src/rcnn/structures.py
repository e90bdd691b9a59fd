"""What flows through the library: batches of fixed capacity, never lists of per-image dicts.

Everything is padded to the same length and says which entries are real, so one semantics holds for one image and for
sixty-four, in eager, compiled and exported form. Letters: B images, G ground truths, N proposals, D detections,
H W padded height and width. Boxes are float32 `x1 y1 x2 y2` in pixels of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

# A padded shape is the next multiple of this: a function of the image alone, so that a batch never changes a result.
PAD_MULTIPLE = 32


def padded(size: int) -> int:
    """The padded length in pixels of an image side of `size` pixels."""
    return -(-size // PAD_MULTIPLE) * PAD_MULTIPLE


class _Movable:
    """Moves every tensor of a dataclass to a device; the rest is kept as it is."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same structure with every tensor on `device`."""

        def move(value: Any) -> Any:
            movable = isinstance(value, Tensor | _Movable)
            return value.to(device, non_blocking=non_blocking) if movable else value

        return type(self)(**{f.name: move(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def pin_memory(self) -> Self:
        """The same structure in page-locked memory, from which copies to a GPU can run in the background."""

        def pin(value: Any) -> Any:
            return value.pin_memory() if isinstance(value, Tensor | _Movable) else value

        return type(self)(**{f.name: pin(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]


@dataclass
class ImageBatch(_Movable):
    """Images padded at the right and bottom to one shape.

    Attributes:
        pixels: [B, 3, H, W] RGB 0–255, uint8 or, where resizing rounds nothing, float32; not normalised: the backbone
            knows how its weights want them.
        sizes: [B, 2] float32, true height and width in pixels inside the padding.
    """

    pixels: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def inside(self) -> Tensor:
        """[B, 1, H, W] bool, false in the padding."""
        height, width = self.pixels.shape[-2:]
        rows = torch.arange(height, device=self.sizes.device) < self.sizes[:, :1]  # [B, H]
        columns = torch.arange(width, device=self.sizes.device) < self.sizes[:, 1:]  # [B, W]
        return (rows[:, :, None] & columns[:, None, :])[:, None]


@dataclass
class Masks(_Movable):
    """The masks of a batch's objects as run lengths (see `rcnn.rle`), ragged: an object costs as much as its outline.

    All objects' pixels stand one after the other, each mask's down the columns of the image that was annotated; a run
    is a stretch of them that is on or off. R runs.

    Attributes:
        ends: [R] int64 rising, where each run ends.
        area: [R] int64, pixels that are on up to there.
        on: [R] bool.
        start: [B, G] int64, where an object's mask begins; −1 where it has none.
        sizes: [B, 2] int64, height and width of the annotated images.
        windows: [B, 4] float32 x1 y1 x2 y2 in their pixels, what of them is to be seen.
        frames: [B, 4] float32, of x and y the scale, then the shift that lead from the network's pixels to those of the
            annotated image; a negative scale mirrors.
    """

    ends: Tensor
    area: Tensor
    on: Tensor
    start: Tensor
    sizes: Tensor
    windows: Tensor
    frames: Tensor


@dataclass
class GroundTruth(_Movable):
    """The annotated objects of a batch, padded to G objects.

    Attributes:
        boxes: [B, G, 4] pixels; zeros where padded.
        labels: [B, G] int64 in 0 … K−1; −1 where padded.
        ignore: [B, G] bool: `difficult` and crowd objects, which are neither hit nor miss.
        masks: of the objects, for systems that learn them.
        semantic: [B, H, W] uint8, the class of each pixel: 0 … K−1, K for background, 255 for void and padding; None
            for systems that do not learn it.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    masks: Masks | None = None
    semantic: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """[B, G] bool: objects to be found, neither padded nor ignored."""
        return (self.labels >= 0) & ~self.ignore


@dataclass
class Proposals(_Movable):
    """Candidate boxes of a batch, best first.

    Attributes:
        boxes: [B, N, 4] pixels; zeros where padded.
        scores: [B, N] float32 objectness, comparable within an image; 1 where regions come without, 0 where padded.
        valid: [B, N] bool, false where padded.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor


@dataclass
class Batch(_Movable):
    """One training step's worth.

    Attributes:
        images: B images.
        truth: what is in them.
        names: of length B, for messages.
        proposals: regions that come from outside the network, for the systems that take such.
    """

    images: ImageBatch
    truth: GroundTruth
    names: tuple[str, ...] = ()
    proposals: Proposals | None = None


@dataclass
class DetectionBatch(_Movable):
    """Detections of a batch, best first, padded to D.

    Attributes:
        boxes: [B, D, 4] pixels of the network's input; zeros where padded.
        scores: [B, D] float32 in [0, 1]; 0 where padded.
        labels: [B, D] int64 in 0 … K−1; −1 where padded.
        overflow: [B] bool: more candidates than the fixed capacity held, so the result may lack some; ask again with
            a larger capacity.
        masks: [B, D, M, M] float32 in [0, 1], how likely each cell of a grid over the box is the object; None for
            systems without masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    overflow: Tensor
    masks: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """[B, D] bool, false where padded."""
        return self.labels >= 0
