"""Colour spaces and local appearance of images, from which Selective Search builds (Uijlings et al. 2013, section 3.2).

Arrays are numpy's, as images are before a network sees them. Letters: C channels, H W height and width, J bin numbers
of a pixel.
"""

from __future__ import annotations

import numpy as np

from rcnn.kernels.forms import array_form

SPACES = ("hsv", "lab", "rgi", "hue", "intensity")
COLOUR_BINS = 25
TEXTURE_BINS = 10
# Slopes are binned up to this share of the steepest there can be, a step across the whole range; few are steeper.
TEXTURE_RANGE = 0.25

# sRGB's primaries in CIE XYZ, its white (D65), and the linear light of each byte.
LAB_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float64
)
LAB_WHITE = LAB_XYZ.sum(1)
# Where sRGB's colours lie in L*, a* and b*: lowest and extent.
LAB_LOW = np.array([0.0, -86.185, -107.863], np.float32)
LAB_EXTENT = np.array([100.0, 184.439, 202.345], np.float32)
_bytes = np.arange(256) / 255
LINEAR = np.where(_bytes <= 0.04045, _bytes / 12.92, ((_bytes + 0.055) / 1.055) ** 2.4).astype(np.float32)


def convert(image: np.ndarray, space: str) -> np.ndarray:
    """An image in another colour space.

    Args:
        image: [H, W, 3] uint8 RGB.
        space: "hsv"; "lab" (CIE L*a*b*, D65); "rgi" (shares of red and green, and intensity); "hue"; or "intensity"
            (the mean of red, green and blue).

    Returns:
        [C, H, W] float32; each channel scaled so that all the colours of sRGB span 0–255.
    """
    return array_form().convert(image, space)


def smooth(planes: np.ndarray, sigma: float) -> np.ndarray:
    """Planes float32 [C, H, W] after a Gaussian of `sigma` pixels; edges are repeated outwards. 0 changes nothing."""
    return array_form().smooth(planes, sigma) if sigma > 0 else planes


def bin_numbers(planes: np.ndarray) -> np.ndarray:
    """The histogram bins that each pixel belongs to, of planes float32 [C, H, W].

    Returns:
        [H, W, 5C] uint8. First 4C numbers for texture: for each channel its Gaussian derivatives (σ = 1) along 0°, 45°,
        90° and 135°; 0 … 9 by strength where it rises, 10 … 19 where it falls. So four numbers hold eight orientations.
        Then C numbers for colour: 0 … 24 by value.
    """
    return array_form().bin_numbers(planes)


def channels_of(space: str) -> int:
    """The number of channels C of a colour space."""
    return 1 if space in ("hue", "intensity") else 3


def gaussian_taps(sigma: float) -> np.ndarray:
    """Weights float32 [2r + 1] of a Gaussian out to r = 4σ, of sum 1."""
    radius = max(1, round(4 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def derivative_taps(sigma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Weights float32 [2r + 1] of a Gaussian and of its derivative, the latter scaled to bins.

    A step by `TEXTURE_RANGE` of 255 has the strength of just all the bins.
    """
    taps = gaussian_taps(sigma)
    radius = len(taps) // 2
    slope = np.arange(-radius, radius + 1) / sigma**2 * taps
    step = 255 * TEXTURE_RANGE * slope[radius:].sum()
    return taps, (slope * TEXTURE_BINS / step).astype(np.float32)
