"""Image files of any kind as one thing: RGB, uint8, upright.

Pillow decodes; the EXIF orientation is always applied, so that pixels, sizes and boxes agree on what is up. H W are
height and width in pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rcnn.errors import UserError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image, by its suffix."""
    return name.lower().endswith(SUFFIXES)


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image file as uint8 RGB [H, W, 3], upright by its EXIF orientation.

    Grey, palette, CMYK and 1-bit images become RGB; transparency is dropped; 16-bit values are scaled by 1/257, so that
    65535 becomes 255; floating-point images are taken as 0–255.

    Raises:
        UserError: the file is missing, empty, truncated or no image; the sentence names it.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over in broken bytes
        raise unreadable(path, error) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image as `read_image` gives them: uint8 RGB [H, W, 3], upright."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        wide = np.asarray(upright).astype(np.int64).clip(0, 65535)
        grey = ((wide + 128) // 257).astype(np.uint8)  # [H, W]
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(upright.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels of an image file after its EXIF orientation; only the header is read.

    Raises:
        UserError: as of `read_image`, as far as the header tells.
    """
    stored, turned = stored_size(path)
    return (stored[1], stored[0]) if turned else stored


def stored_size(path: str | Path) -> tuple[tuple[int, int], bool]:
    """Height and width as stored in the file, and whether its EXIF orientation turns it on its side."""
    path = Path(path)
    try:
        with Image.open(path) as image:
            # A PNG's getexif() would decode all pixels; the chunk stands before them or, as good as always, nowhere.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            return (image.height, image.width), exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception as error:  # as in read_image
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """The sentence that tells why the image at `path` cannot be used."""
    if not path.exists():
        return UserError(f"image '{path}' does not exist")
    if path.is_dir():
        return UserError(f"'{path}' is a folder where an image file was expected")
    if isinstance(error, PermissionError):
        return UserError(f"no permission to read image '{path}'")
    if path.stat().st_size == 0:
        return UserError(f"image '{path}' is an empty file of 0 bytes; copy it again or take it out of the data set")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"'{path}' is not an image that can be read; JPEG, PNG, BMP, TIFF, GIF and WebP are")
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"image '{path}' has too many pixels to be read safely: {error}")
    return UserError(f"image '{path}' is damaged or cut short ({error}); copy it again or take it out of the data set")
