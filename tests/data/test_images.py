from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rcnn.data import read_image
from rcnn.data.images import image_size
from rcnn.errors import UserError

GREY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I", "F") else "image.png")
    picture = {
        "I;16": lambda: Image.fromarray(GREY.astype(np.uint16) * 257),
        "I": lambda: Image.fromarray(GREY.astype(np.int32) * 257),
        "F": lambda: Image.fromarray(GREY.astype(np.float32)),
        "P": lambda: Image.fromarray(GREY).quantize(256),
    }.get(mode, lambda: Image.fromarray(GREY).convert("RGB").convert(mode))()
    assert picture.mode == mode
    picture.save(path)
    pixels = read_image(path)
    assert pixels.shape == (12, 20, 3)
    assert pixels.dtype == np.uint8
    if mode == "1":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        np.testing.assert_allclose(pixels, np.repeat(GREY[:, :, None], 3, 2), atol=1)


def test_colours_come_in_the_order_red_green_blue(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 3), (250, 20, 10)).save(path)
    assert read_image(path)[0, 0].tolist() == [250, 20, 10]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path, orientation, suffix):
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = 255  # only the top left is white
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    pixels = read_image(path)
    assert pixels.shape == (40, 60, 3)
    assert image_size(path) == (40, 60)
    np.testing.assert_allclose(pixels.astype(int), upright, atol=30)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.jpg' does not exist"):
        read_image(tmp_path / "no.jpg")


def test_an_empty_image_is_named(tmp_path):
    (tmp_path / "zero.jpg").touch()
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"zero\.jpg' is an empty file"):
            read(tmp_path / "zero.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_named(draw_image, tmp_path, suffix):
    path = draw_image(tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"cut\.{suffix}' is damaged or cut short"):
        read_image(path)


def test_text_is_no_image(tmp_path):
    (tmp_path / "note.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"note\.jpg' is not an image"):
        read_image(tmp_path / "note.jpg")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="too many pixels"):
        read_image(tmp_path / "bomb.png")
