"""Warping: each region of an image resampled to a square of one size (Girshick et al. 2014, appendix A).

Letters: R regions, H W height and width of the image, S side of a crop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.kernels.forms import form


def warp(pixels: Tensor, windows: Tensor, visible: Tensor, fill: Tensor, *, size: int) -> Tensor:
    """Resamples windows of an image to squares, bilinearly and without antialiasing.

    The centre of a crop's pixel (u, v) lies at `x1 + (u + ½)·(x2 − x1)/S` of its window, and likewise in y. Where that
    is inside `visible` the pixel is interpolated between the four nearest centres of the image's pixels (its border
    repeats beyond the outermost centres); elsewhere it gets the fill colour.

    Args:
        pixels: [3, H, W] uint8; read fastest where channels-last.
        windows: [R, 4] float32 pixels; may reach outside the image.
        visible: [R, 4] float32 pixels, inside the image: what of it is shown.
        fill: [R, 3] uint8, the colour of the rest.
        size: S.

    Returns:
        [R, 3, S, S] uint8, channels-last; rounded to the nearest, halves up.
    """
    return torch.ops.rcnn.warp(pixels, windows.float(), visible.float(), fill, size)


torch.library.define("rcnn::warp", "(Tensor pixels, Tensor windows, Tensor visible, Tensor fill, int size) -> Tensor")


@torch.library.impl("rcnn::warp", "default")
def _warp(pixels: Tensor, windows: Tensor, visible: Tensor, fill: Tensor, size: int) -> Tensor:
    return form(pixels.device.type).warp(pixels, windows, visible, fill, size)


@torch.library.register_fake("rcnn::warp")
def _(pixels: Tensor, windows: Tensor, visible: Tensor, fill: Tensor, size: int) -> Tensor:
    return pixels.new_empty((len(windows), size, size, 3)).permute(0, 3, 1, 2)
