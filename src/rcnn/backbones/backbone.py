"""A backbone: the layers of an image classifier that detectors share, from pixels to feature maps.

What is left of the classifier after its last shared map may serve as the head for each RoI (Ren et al. 2015, section
3.2; He et al. 2016, appendix A: res5 in the C4 form). Letters: B images, C channels, H W rows and columns, R RoIs,
P pooled side, D width of the head's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from rcnn.backbones.fpn import FPN
from rcnn.backbones.geometry import centre_behind, widen
from rcnn.backbones.norm import ValidRegion
from rcnn.backbones.weights import IMAGENET_STATISTICS, Loaded, Normalisation
from rcnn.structures import ImageBatch


@dataclass(frozen=True)
class Tap:
    """A map that a body offers: what the layer of this index gives, its stride in pixels and its channels."""

    layer: int
    stride: int
    channels: int


@dataclass(frozen=True)
class Trunk:
    """A classifier taken apart.

    Attributes:
        body: its layers in order, under their published names.
        stages: the index behind the last layer of each stage; freezing goes by stages.
        taps: the maps that the body offers, finest first.
        head: the layers after the body as an RoI head, [R, C, P, P] to [R, D]; None if there are none to speak of.
        head_size: P.
        head_channels: D.
    """

    body: nn.Sequential
    stages: tuple[int, ...]
    taps: tuple[Tap, ...]
    head: nn.Module | None = None
    head_size: int = 0
    head_channels: int = 0


class Normalise(nn.Module):
    """Pixels [B, 3, H, W] uint8 RGB to what the first convolution was trained on, the padding exactly zero.

    Order, scale and shift are buffers: they belong to the weights and are saved with them.
    """

    order: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, statistics: Normalisation = IMAGENET_STATISTICS) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(3))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))
        self.set(statistics)

    def set(self, statistics: Normalisation) -> None:
        """Takes the channel order, range, mean and standard deviation of some weights."""
        mean, std = torch.tensor(statistics.mean), torch.tensor(statistics.std)
        self.order.copy_(torch.tensor([0, 1, 2] if statistics.order == "RGB" else [2, 1, 0]))
        self.scale.copy_(statistics.range / 255 / std)
        self.shift.copy_(-mean / std)

    @property
    def mean_colour(self) -> Tensor:
        """The colour [3] RGB 0–255 that becomes zero."""
        return (-self.shift / self.scale)[self.order]  # both orders are their own inverse

    def forward(self, images: ImageBatch) -> Tensor:
        """[B, 3, H, W] float32, channels last in memory."""
        pixels = images.pixels[:, self.order].to(torch.float32, memory_format=torch.channels_last)
        scaled = torch.addcmul(self.shift[:, None, None], pixels, self.scale[:, None, None])
        return scaled * images.inside


class Backbone(nn.Module):
    """Images to feature maps.

    Attributes:
        name: its full name in the registry.
        strides: of each map in pixels, finest first; channels: of each map.
        head: what the classifier had after the shared maps, [R, C, P, P] to [R, D], or None; head_size: P;
            head_channels: D.
        settings: all that `backbones.create` needs to build it again, before its weights are loaded.
        loaded: which file its weights came from and what in it was not used; None for a random start.
        fused: what makes the maps of normalised pixels in the place of `layers`; None before `fuse`.

    State dict: `body.` and `head.` hold the classifier's layers under their published names less the prefix
    (`features.`, `classifier.`), `fpn.` the pyramid, `normalise.` the statistics of the pixels.
    """

    loaded: Loaded | None = None

    def __init__(
        self,
        name: str,
        trunk: Trunk,
        taps: Sequence[Tap],
        *,
        fpn: FPN | None = None,
        region: ValidRegion | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.settings = settings or {}
        self.normalise = Normalise()
        # Layers behind the last map that is asked for would never get a gradient.
        self.body = trunk.body[: max(tap.layer for tap in taps) + 1]
        self.fpn = fpn
        self.head = trunk.head
        self.head_size, self.head_channels = trunk.head_size, trunk.head_channels
        self.strides = tuple(tap.stride for tap in taps)
        self.channels = tuple(tap.channels for tap in taps)
        if fpn is not None:
            self.strides += tuple(self.strides[-1] * 2**i for i in range(1, fpn.extra + 1))
            self.channels = (fpn.channels,) * len(self.strides)
        self.fused: nn.Module | None = None
        self._taps = frozenset(tap.layer for tap in taps)
        self._offered = trunk.taps
        self.stages = tuple(stage for stage in trunk.stages if stage <= len(self.body))
        self._frozen_layers = 0
        self._region = region  # None: this network leaves the padding as its convolutions make it
        self._keeps = False
        self._kept: tuple[ImageBatch, list[Tensor]] | None = None

    @property
    def centres(self) -> tuple[float, ...]:
        """Of the body's maps: where the first cell of each is centred, in pixels, the first pixel's centre being 0."""
        centre, stride, found = 0.0, 1, []
        for index, layer in enumerate(self.body):
            centre, stride = centre_behind(layer, centre, stride)
            if index in self._taps:
                found.append(centre)
        return tuple(found)

    def widen(self, border: int) -> None:
        """Pads VGG16's image as of `geometry.widen`; norms count the border in, since no mask says where it is."""
        widen(self.body, border)
        self._region = None

    def offer_twins(self) -> None:
        """Gives all maps of its one stride, finest first: that of conv4 beside conv5's à trous, for R-FCN's RPN."""
        taps = [tap for tap in self._offered if tap.stride == self.strides[-1]]
        self._taps = frozenset(tap.layer for tap in taps)
        self.strides = tuple(tap.stride for tap in taps)
        self.channels = tuple(tap.channels for tap in taps)

    def end_at_first(self) -> None:
        """Drops what comes behind its first map: all that an RPN with a backbone of its own reads."""
        first = min(self._taps)
        self.body, self._taps = self.body[: first + 1], frozenset((first,))
        self.strides, self.channels = self.strides[:1], self.channels[:1]
        self.stages = tuple(stage for stage in self.stages if stage <= first + 1)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside the block the maps of a batch are made once, though its losses and its detections both ask for them.

        A batch is known by being the same object, so its pixels must stay as they are.
        """
        self._keeps = True
        try:
            yield
        finally:
            self._keeps, self._kept = False, None

    def forward(self, images: ImageBatch) -> list[Tensor]:
        """Pixels [B, 3, H, W] to maps [B, C_l, H_l, W_l], finest first."""
        if self._kept is not None and self._kept[0] is images:
            return list(self._kept[1])
        maps = self._maps(images)
        if self._keeps:
            self._kept = images, list(maps)
        return maps

    def _maps(self, images: ImageBatch) -> list[Tensor]:
        """The maps of `forward`, made anew."""
        if self._region is not None:
            self._region.set(images.sizes if _padded(images) else None)
        x = self.normalise(images)
        maps = self.layers(x) if self.fused is None else self.fused(x)
        if self._region is not None:
            self._region.set(None)
        return maps

    def layers(self, x: Tensor) -> list[Tensor]:
        """Normalised pixels [B, 3, H, W] to the maps of `forward`."""
        maps = []
        for index, layer in enumerate(self.body):
            x = layer(x)
            if index in self._taps:
                maps.append(x)
        return maps if self.fpn is None else self.fpn(maps)

    def fuse(self, maps: nn.Module) -> None:
        """From now on `maps` does what `layers` did, and these are dropped; for a copy that only predicts."""
        self.fused, self.body, self.fpn = maps, nn.Sequential(), None

    def freeze(self, stages: int) -> None:
        """Stops training of the first `stages` stages for good, 0 of none: their norms stay in eval mode."""
        self._frozen_layers = self.stages[stages - 1] if stages else 0
        for layer in self.body[: self._frozen_layers]:
            layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but frozen stages stay in eval mode."""
        super().train(mode)
        for layer in self.body[: self._frozen_layers]:
            layer.eval()
        return self


def _padded(images: ImageBatch) -> bool:
    """Whether some image has padding; true off the CPU and in a compiled graph, where asking would wait or break it."""
    if images.sizes.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return bool((images.sizes != torch.tensor(images.pixels.shape[-2:])).any())
