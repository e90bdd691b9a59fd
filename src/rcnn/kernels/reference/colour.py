"""Colour spaces, smoothing and bin numbers in plain numpy.

Letters: C channels, H W height and width.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.colour import (
    COLOUR_BINS,
    LAB_EXTENT,
    LAB_LOW,
    LAB_WHITE,
    LAB_XYZ,
    LINEAR,
    TEXTURE_BINS,
    derivative_taps,
    gaussian_taps,
)


def convert(image: np.ndarray, space: str) -> np.ndarray:
    """Planes float32 [C, H, W] of an image uint8 RGB [H, W, 3]; see `rcnn.kernels.convert`."""
    colours = image.astype(np.float32)
    if space == "lab":
        planes = _lab(LINEAR[image])
    elif space in ("hsv", "hue"):
        planes = _hsv(colours)
    else:
        total = colours.sum(2)
        shares = 255 * colours / np.maximum(total, 1)[..., None]
        planes = np.stack((shares[..., 0], shares[..., 1], total / 3))
    if space in ("hue", "intensity"):
        planes = planes[:1] if space == "hue" else planes[2:]
    return np.ascontiguousarray(planes, np.float32)


def smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Planes [C, H, W] after a Gaussian of `sigma` pixels; see `rcnn.kernels.smooth`."""
    taps = gaussian_taps(sigma)
    return _filter(_filter(planes, taps, 1), taps, 2)


def bin_numbers(planes: np.ndarray) -> np.ndarray:
    """Bin numbers uint8 [H, W, 5C] of planes [C, H, W]; see `rcnn.kernels.bin_numbers`."""
    taps, slope_taps = derivative_taps()
    gx = _filter(_filter(planes, taps, 1), slope_taps, 2)
    gy = _filter(_filter(planes, slope_taps, 1), taps, 2)
    half = np.float32(0.5**0.5)
    slopes = np.stack((gx, (gx + gy) * half, gy, (gy - gx) * half), 1)  # [C, 4, H, W]
    strength = np.minimum(np.abs(slopes).astype(np.int32), TEXTURE_BINS - 1)
    texture = (strength + TEXTURE_BINS * (slopes < 0)).reshape(-1, *planes.shape[1:])
    colour = np.clip((planes * np.float32(COLOUR_BINS / 256)).astype(np.int32), 0, COLOUR_BINS - 1)
    return np.ascontiguousarray(np.concatenate((texture, colour)).transpose(1, 2, 0), np.uint8)


def _hsv(colours: np.ndarray) -> np.ndarray:
    """Hue, saturation and value [3, H, W] of colours [H, W, 3], each scaled to 0–255."""
    r, g, b = colours.transpose(2, 0, 1)
    high = colours.max(2)
    chroma = high - colours.min(2)
    part = np.maximum(chroma, 1)
    sixths = np.where(high == r, (g - b) / part, np.where(high == g, (b - r) / part + 2, (r - g) / part + 4)) % 6
    return np.stack((255 / 6 * sixths, 255 * chroma / np.maximum(high, 1), high))


def _lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* [3, H, W] of linear light [H, W, 3], each channel scaled so that sRGB spans 0–255."""
    xyz = light @ (LAB_XYZ / LAB_WHITE[:, None]).T
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).transpose(2, 0, 1)
    lab = np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))
    return 255 * (lab - LAB_LOW[:, None, None]) / LAB_EXTENT[:, None, None]


def _filter(planes: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Planes [C, H, W] filtered along an axis with taps [2r + 1]; edges are repeated outwards."""
    length, radius = planes.shape[axis], len(taps) // 2
    result = np.zeros_like(planes)
    for i, tap in enumerate(taps):
        result += tap * planes.take(np.clip(np.arange(length) + i - radius, 0, length - 1), axis)
    return result
