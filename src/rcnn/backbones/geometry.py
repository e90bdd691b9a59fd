"""Where the cells of a map lie in the image, and how far over its edge windows look (Long et al. 2015, section 4).

Pixels are counted by their centres, so pixel 0 lies at 0. A window of size k, padded by p, whose input's cells lie at
c, c + s, c + 2s … puts its first output at c + s · ((k − 1) / 2 − p).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def centre_behind(module: nn.Module, centre: float, stride: int) -> tuple[float, int]:
    """The centre in pixels of a map's first cell, and its stride, behind `module`, which a map of these enters.

    Layers are taken in the order of registration, a residual block's shortcut left out.
    """
    for window in _windows(module):
        size, padding, dilation, step = (
            _side(getattr(window, name)) for name in ("kernel_size", "padding", "dilation", "stride")
        )
        centre += stride * (dilation * (size - 1) / 2 - padding)
        stride *= step
    return centre, stride


def _windows(module: nn.Module) -> Iterator[Any]:
    """The convolutions and max poolings below `module`."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d):
        yield module
        return
    for name, child in module.named_children():
        if name != "downsample":
            yield from _windows(child)


def _side(value: Any) -> int:
    """The vertical one of a pair; windows here are square."""
    return value[0] if isinstance(value, tuple) else value


def widen(body: nn.Module, border: int) -> None:
    """Changes how far the convolutions and poolings below `body` look over the image's edge.

    Args:
        body: VGG16's, as of `vgg.skip_trunk`.
        border: the first convolution pads by so many pixels, and poolings keep a window that begins inside the map, as
            Caffe's do: 100 is FCN's. With 0 no convolution pads and poolings drop such windows: then, and only then, a
            dense classifier equals one that slides over the image.
    """
    windows = [layer for layer in body.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    for number, layer in enumerate(windows):
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = border > 0
        elif number == 0 or border == 0:
            layer.padding = (border, border)
