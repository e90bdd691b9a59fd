"""FCN's head: class scores on maps of several strides, fused from deep to shallow, up-sampled to the pixels.

Long, Shelhamer and Darrell 2015, section 4.2 and figure 3. Each map is scored by a 1×1 convolution. The coarsest scores
are up-sampled by 2 and added to those of the next finer map, and so on; what comes out is up-sampled to the pixels.
Up-sampling is transposed convolution that begins as bilinear interpolation. Maps are aligned by where their cells are
centred (`backbones.geometry`), from which the published crops (19; 5, 27; 5, 9, 31) follow for VGG16 padded by 100.
Letters: B images, C = K + 1 scores (background last), H W pixels, h w cells, s a map's stride, f a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.data.semantic import VOID
from rcnn.errors import RCNNError


@dataclass(frozen=True)
class SegmentationHeadOptions:
    """How scores are fused and what is learnt of them.

    Attributes:
        upsampling: "learned": the up-sampling between maps is trained, one kernel a class; "fixed": it stays bilinear,
            as in the released code. The last one to the pixels is always fixed (section 4.3).
        skip_scales: what the maps of strides 16 and 8 are multiplied by before they are scored; (0.01, 0.0001) makes up
            for their size when all is trained at once (Shelhamer et al. 2017, section 4.2), (1, 1) leaves them.
        loss: "sum" over an image's pixels, as published; "mean" over those that are not void.
    """

    upsampling: Literal["fixed", "learned"] = "learned"
    skip_scales: tuple[float, float] = (1.0, 1.0)
    loss: Literal["sum", "mean"] = "mean"


def bilinear_kernel(factor: int, size: int) -> Tensor:
    """The kernel [size, size] with which a transposed convolution of stride `factor` interpolates bilinearly.

    `size` is 2 · factor − 1, whose middle is a cell, or 2 · factor, whose middle lies between two.
    """
    distance = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2).abs()
    line = (1 - distance / factor).clamp(min=0)
    return line[:, None] * line


class Upsample(nn.Module):
    """Bilinear up-sampling [B, C, h, w] → [B, C, (h − 1) · f + size, …] by transposed convolution, class by class.

    Args:
        factor: f.
        size: of the kernel, see `bilinear_kernel`.
        channels: C.
        learned: whether the kernels are trained, one a class, or stay as they begin.
    """

    weight: Tensor

    def __init__(self, factor: int, size: int, channels: int, *, learned: bool = False) -> None:
        super().__init__()
        self.factor, self.size = factor, size
        weight = bilinear_kernel(factor, size).expand(channels, 1, size, size).clone()
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight, persistent=False)

    def centre(self, centre: float, stride: int) -> float:
        """Where the first output lies, in pixels, for a map whose first cell lies at `centre`."""
        return centre - stride / self.factor * (self.size - 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the finer map, in float32: bf16 would quantise the sums that are compared with each other."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv_transpose2d(x.float(), self.weight, stride=self.factor, groups=len(self.weight))


def upsample_to(
    factor: int, centre: float, stride: int, channels: int, onto: float, *, learned: bool = False
) -> Upsample:
    """The up-sampling after which cells lie on those of a map whose first lies at `onto`, a whole number of cells away.

    Args:
        factor: f.
        centre: of the first cell of the map that comes in, in pixels; `stride`: its stride.
        channels: C.
        onto: see above; 0 for the pixels.
        learned: as of `Upsample`.
    """
    for size in (2 * factor, 2 * factor - 1):
        layer = Upsample(factor, size, channels, learned=learned)
        if ((layer.centre(centre, stride) - onto) / (stride / factor)).is_integer():
            return layer
    raise RCNNError(f"maps of stride {stride} centred at {centre:g} px cannot be aligned with cells at {onto:g} px")


class Level(nn.Module):
    """One map's scores, and how those from deeper maps come to it.

    Args:
        channels: of the map; `classes`: C.
        scale: what the map is multiplied by first.
        up: up-samples the deeper scores by 2; None for the deepest.
    """

    def __init__(self, channels: int, classes: int, scale: float, up: Upsample | None) -> None:
        super().__init__()
        self.scale = scale
        self.score = nn.Conv2d(channels, classes, 1)
        assert self.score.bias is not None
        # From zero: a new level changes nothing until it has learnt something (section 4.3).
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        """The map [B, channels, h, w] to scores [B, C, h, w]."""
        return self.score(x * self.scale if self.scale != 1 else x)


class SegmentationHead(nn.Module):
    """Maps of strides 8, 16, 32 or the last of them → a score for each class and pixel.

    Args:
        channels: of each map, finest first.
        strides: of each, each double the last.
        centres: where the first cell of each lies, in pixels.
        classes: C, background included.
        options: see `SegmentationHeadOptions`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        centres: Sequence[float],
        classes: int,
        options: SegmentationHeadOptions,
    ) -> None:
        super().__init__()
        self.options = options
        self.strides, self.centres = tuple(strides), dict(zip(strides, centres, strict=True))
        self.levels, self.to_pixels = nn.ModuleDict(), nn.ModuleDict()
        scales = {16: options.skip_scales[0], 8: options.skip_scales[1]}
        self.starts: dict[int, float] = {}  # of the fused scores of each stride, in pixels
        deeper = 0
        for width, stride in zip(reversed(channels), reversed(self.strides), strict=True):
            start, up, scale = self.centres[stride], None, 1.0
            if deeper:
                learned = options.upsampling == "learned"
                up = upsample_to(2, self.starts[deeper], deeper, classes, start, learned=learned)
                start, scale = max(start, up.centre(self.starts[deeper], deeper)), scales[stride]
            self.levels[str(stride)] = Level(width, classes, scale, up)
            self.to_pixels[str(stride)] = upsample_to(stride, start, stride, classes, 0.0)
            self.starts[stride], deeper = start, stride

    def forward(self, maps: Sequence[Tensor], size: Sequence[int], finest: int | None = None) -> Tensor:
        """Scores [B, C, H, W] in float32.

        Args:
            maps: [B, channels, h, w] of each stride, finest first.
            size: H, W.
            finest: maps finer than this stride are left out; None uses all.
        """
        fused, deeper = None, 0
        for stride, map_ in zip(reversed(self.strides), reversed(maps), strict=True):
            if finest is not None and stride < finest:
                break
            level = self.levels[str(stride)]
            scores = level(map_)
            if fused is not None:
                start = level.up.centre(self.starts[deeper], deeper)  # type: ignore[union-attr, operator]
                scores = added(level.up(fused), start, scores.float(), self.centres[stride], stride)  # type: ignore[operator]
            fused, deeper = scores, stride
        assert fused is not None
        last = self.to_pixels[str(deeper)]
        crop = int(-last.centre(self.starts[deeper], deeper))  # type: ignore[operator]
        pixels = last(fused)[..., crop : crop + size[0], crop : crop + size[1]]
        if crop < 0 or pixels.shape[-2:] != tuple(size):
            raise RCNNError(f"scores of stride {deeper} do not cover an image of {size[1]}×{size[0]} pixels")
        return pixels

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss [] of logits [B, C, H, W] by labels uint8 [B, H, W], 0 … C − 1 or void: the mean over the images."""
        each = F.cross_entropy(logits.float(), labels.long(), ignore_index=VOID, reduction="none")  # [B, H, W]
        loss = each.sum((1, 2))
        if self.options.loss == "mean":
            loss = loss / (labels != VOID).sum((1, 2)).clamp(min=1)
        return loss.mean()


def added(one: Tensor, one_start: float, other: Tensor, other_start: float, stride: int) -> Tensor:
    """The sum of two maps [B, C, ·, ·] of one stride where both are, by where their first cells lie in pixels."""
    skip = round((other_start - one_start) / stride)  # cells of `one` before the first of `other`
    one, other = one[..., max(skip, 0) :, max(skip, 0) :], other[..., max(-skip, 0) :, max(-skip, 0) :]
    height, width = (min(sides) for sides in zip(one.shape[-2:], other.shape[-2:], strict=True))
    return one[..., :height, :width] + other[..., :height, :width]


def best_classes(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The class of each pixel, uint8 [H, W], by scores [C, h, w] brought bilinearly to an image of `size` H, W.

    One class after the other, so that a large photograph needs no more memory than a few of its planes.
    """
    best = torch.zeros(tuple(size), dtype=torch.uint8, device=logits.device)
    most = None
    for label, plane in enumerate(logits):
        if plane.shape != tuple(size):
            plane = F.interpolate(plane[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
        if most is not None:
            best.masked_fill_(plane > most, label)
        most = plane if most is None else torch.maximum(most, plane)
    return best
