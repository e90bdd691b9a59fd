"""Colour spaces, smoothing and the bin numbers of colour and texture on the CPU, row by row so that loops vectorise.

Letters: C channels, H W height and width, J bin numbers of a pixel.
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
    channels_of,
    derivative_taps,
    gaussian_taps,
)
from rcnn.kernels.cpu.threads import kernel

_XYZ = (LAB_XYZ / LAB_WHITE[:, None]).astype(np.float32)
# L* = 116 f(Y) - 16, a* = 500 (f(X) - f(Y)), b* = 200 (f(Y) - f(Z)), and then to 0–255.
_SCALE = np.array([116, 500, 200], np.float32) * 255 / LAB_EXTENT
_SHIFT = (np.array([-16, 0, 0], np.float32) - LAB_LOW) * 255 / LAB_EXTENT


def convert(image: np.ndarray, space: str) -> np.ndarray:
    """Planes float32 [C, H, W] of an image uint8 RGB [H, W, 3]; see `rcnn.kernels.convert`."""
    planes = np.empty((channels_of(space), *image.shape[:2]), np.float32)
    image = np.ascontiguousarray(image)
    if space == "lab":
        _lab(image, LINEAR, _XYZ, _SCALE, _SHIFT, planes)
    elif space in ("hsv", "hue"):
        _hsv(image, planes)
    else:
        _shares(image, planes)
    return planes


def smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Planes [C, H, W] after a Gaussian of `sigma` pixels; see `rcnn.kernels.smooth`."""
    taps, result = gaussian_taps(sigma), np.empty_like(planes)
    for plane, smoothed in zip(planes, result, strict=True):
        _smooth(plane, taps, smoothed)
    return result


def bin_numbers(planes: np.ndarray) -> np.ndarray:
    """Bin numbers uint8 [H, W, J] of planes [C, H, W]; see `rcnn.kernels.bin_numbers`."""
    channels, height, width = planes.shape
    numbers = np.empty((height, width, 5 * channels), np.uint8)
    _bin_numbers(planes, *derivative_taps(), numbers)
    return numbers


@kernel()
def _hsv(image: np.ndarray, planes: np.ndarray) -> None:
    """Hue, and saturation and value where planes [C, H, W] have room for them."""
    sixth, full = np.float32(255 / 6), np.float32(255)
    zero, one, two, four, six = np.float32(0), np.float32(1), np.float32(2), np.float32(4), np.float32(6)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            r, g, b = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
            high = max(max(r, g), b)
            chroma = high - min(min(r, g), b)
            part = one / max(chroma, one)
            turn = (r - g) * part + four
            turn = (b - r) * part + two if high == g else turn
            turn = (g - b) * part if high == r else turn
            turn = turn + six if turn < zero else turn
            planes[0, y, x] = turn * sixth
            if len(planes) == 3:
                planes[1, y, x] = full * chroma / max(high, one)
                planes[2, y, x] = high


@kernel()
def _shares(image: np.ndarray, planes: np.ndarray) -> None:
    """The mean of r, g and b in the last of planes [C, H, W], and before it, where there is room, their shares r, g."""
    one, third, full = np.float32(1), np.float32(1 / 3), np.float32(255)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            r, g, b = np.float32(image[y, x, 0]), np.float32(image[y, x, 1]), np.float32(image[y, x, 2])
            total = r + g + b
            planes[-1, y, x] = total * third
            if len(planes) == 3:
                part = full / max(total, one)
                planes[0, y, x], planes[1, y, x] = r * part, g * part


@kernel()
def _lab(
    image: np.ndarray, linear: np.ndarray, matrix: np.ndarray, scale: np.ndarray, shift: np.ndarray, planes: np.ndarray
) -> None:
    """CIE L*a*b* in planes [3, H, W]; matrix [3, 3] leads from linear light to X, Y and Z as shares of white's."""
    width = image.shape[1]
    root = np.empty((3, width), np.float32)
    for y in range(image.shape[0]):
        for x in range(width):
            r, g, b = linear[image[y, x, 0]], linear[image[y, x, 1]], linear[image[y, x, 2]]
            for c in range(3):
                root[c, x] = matrix[c, 0] * r + matrix[c, 1] * g + matrix[c, 2] * b
        for c in range(3):
            _cube_roots(root[c])
        for x in range(width):
            planes[0, y, x] = scale[0] * root[1, x] + shift[0]
            planes[1, y, x] = scale[1] * (root[0, x] - root[1, x]) + shift[1]
            planes[2, y, x] = scale[2] * (root[1, x] - root[2, x]) + shift[2]


@kernel()
def _cube_roots(values: np.ndarray) -> None:
    """Replaces values [W] by their cube roots, below CIE's limit by the line that goes on from there.

    A third of the float's bits is a first guess, which Newton's rule refines; the library's root would not vectorise.
    """
    guess = (values.view(np.int32) // np.int32(3) + np.int32(709921077)).view(np.float32)
    two, third = np.float32(2), np.float32(1 / 3)
    limit, slope, start = np.float32(0.008856), np.float32(7.787), np.float32(16 / 116)
    for x in range(len(values)):
        value = values[x]
        root = guess[x]
        root = (two * root + value / (root * root)) * third
        root = (two * root + value / (root * root)) * third
        root = (two * root + value / (root * root)) * third
        values[x] = root if value > limit else slope * value + start


@kernel()
def _smooth(plane: np.ndarray, taps: np.ndarray, smoothed: np.ndarray) -> None:
    """Filters a plane [H, W] down and across with the same taps."""
    radius, width = len(taps) // 2, plane.shape[1]
    row = np.empty(width + 2 * radius, np.float32)
    for y in range(len(plane)):
        _down(plane, y, taps, row)
        _across(row, taps, smoothed[y])


@kernel()
def _down(plane: np.ndarray, y: int, taps: np.ndarray, row: np.ndarray) -> None:
    """Fills row [W + 2 · radius] with row y of plane [H, W] filtered downwards; edges are repeated."""
    radius, width = len(taps) // 2, plane.shape[1]
    middle = row[radius : radius + width]
    middle[:] = np.float32(0)
    for i in range(len(taps)):
        tap, above = taps[i], plane[min(max(y + i - radius, 0), len(plane) - 1)]
        for x in range(width):
            middle[x] += tap * above[x]
    row[:radius] = middle[0]
    row[radius + width :] = middle[-1]


@kernel()
def _across(row: np.ndarray, taps: np.ndarray, result: np.ndarray) -> None:
    """Fills result [W] with row [W + 2 · radius] filtered."""
    result[:] = np.float32(0)
    for i in range(len(taps)):
        tap, shifted = taps[i], row[i : i + len(result)]
        for x in range(len(result)):
            result[x] += tap * shifted[x]


@kernel()
def _bin_numbers(planes: np.ndarray, taps: np.ndarray, slope_taps: np.ndarray, numbers: np.ndarray) -> None:
    """Fills numbers [H, W, 5C]; taps of the Gaussian, slope_taps of its derivative."""
    channels, height, width = planes.shape
    radius = len(taps) // 2
    smooth_row, slope_row = np.empty(width + 2 * radius, np.float32), np.empty(width + 2 * radius, np.float32)
    gx, gy = np.empty(width, np.float32), np.empty(width, np.float32)
    bins = np.empty((5, width), np.uint8)
    half, per_bin = np.float32(0.5**0.5), np.float32(COLOUR_BINS / 256)
    for y in range(height):
        for c in range(channels):
            _down(planes[c], y, taps, smooth_row)
            _down(planes[c], y, slope_taps, slope_row)
            _across(smooth_row, slope_taps, gx)
            _across(slope_row, taps, gy)
            for x in range(width):
                bins[0, x] = _texture_bin(gx[x])
                bins[1, x] = _texture_bin((gx[x] + gy[x]) * half)
                bins[2, x] = _texture_bin(gy[x])
                bins[3, x] = _texture_bin((gy[x] - gx[x]) * half)
                bins[4, x] = np.uint8(
                    min(max(np.int32(planes[c, y, x] * per_bin), np.int32(0)), np.int32(COLOUR_BINS - 1))
                )
            for x in range(width):
                for j in range(4):
                    numbers[y, x, 4 * c + j] = bins[j, x]
                numbers[y, x, 4 * channels + c] = bins[4, x]


@kernel()
def _texture_bin(slope: np.float32) -> np.uint8:
    """The bin of a slope: 0 … 9 by its strength where it rises, 10 … 19 where it falls."""
    strength = np.int32(abs(slope))
    bins = min(strength, np.int32(TEXTURE_BINS - 1))
    return np.uint8(bins + (np.int32(TEXTURE_BINS) if slope < np.float32(0) else np.int32(0)))
