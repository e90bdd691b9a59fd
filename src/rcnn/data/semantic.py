"""Label maps: the class of every pixel, as PNG files beside the images (semantic segmentation).

In a file 0 is background, n the n-th class and 255 void, as in PASCAL VOC (Everingham et al. 2010), by the values of a
grey or palette PNG, or by the colours of an RGB one. In memory a map is uint8 [H, W] of indices into the classes; K is
background, which is the last here as everywhere, and 255 void: neither learnt nor judged. Letters: K classes, H W
height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.data.images import unreadable
from rcnn.data.segments import Frame
from rcnn.errors import UserError

VOID = 255
MOST_CLASSES = 254
BACKGROUND_NAME, VOID_NAME = "background", "void"
# What a value or colour of a file may stand for, beside the classes from 0 on.
BACKGROUND, IGNORED, UNKNOWN = -1, -2, -3

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

Colour = tuple[int, int, int]
VOC_BACKGROUND, VOC_VOID = (0, 0, 0), (224, 224, 192)


def palette() -> np.ndarray:
    """VOC's colours uint8 [256, 3] of the values 0–255: each value's bits, dealt to red, green and blue in turn."""
    values = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        channel, place = bit % 3, bit // 3
        colours[:, channel] |= (values >> bit & 1) << 7 - place
    return colours.astype(np.uint8)


@dataclass(frozen=True)
class Coding:
    """How the files of a data set say the classes.

    Attributes:
        values: 256 labels, what each value of a grey or palette PNG stands for.
        colours: what each colour stands for; where there are none, an RGB file has VOC's colours of the `values`.
    """

    values: tuple[int, ...]
    colours: Mapping[Colour, int]

    @classmethod
    def of_values(cls, names: Sequence[str], classes: Sequence[str]) -> Coding:
        """Value n is the n-th of `names`; a name that is not among `classes` stands for nothing."""
        found = [classes.index(name) if name in classes else UNKNOWN for name in names]
        free = [UNKNOWN] * (MOST_CLASSES - len(found))
        return cls((BACKGROUND, *found, *free, IGNORED), {})

    @classmethod
    def of_fact(cls, fact: Mapping[str, Any]) -> Coding:
        """What `fact` gave, read again."""
        return cls(tuple(fact["values"]), {(r, g, b): label for r, g, b, label in fact["colours"]})

    @property
    def fact(self) -> dict[str, Any]:
        """The coding as plain values, for an index's facts."""
        return {"values": list(self.values), "colours": [[*colour, label] for colour, label in self.colours.items()]}

    def labels(self, path: Path) -> np.ndarray:
        """The map of a file as int16 [H, W]: class indices, `BACKGROUND` and `IGNORED`.

        Raises:
            UserError: the file is missing, damaged or of another kind, or has a value or colour of no class.
        """
        try:
            with Image.open(path) as image:
                image.load()
                by_value = image.mode in ("P", "L") and not self.colours
                pixels = np.asarray(image if by_value else image.convert("RGB"))
                mode = image.mode
        except Exception as error:  # Pillow's decoders raise whatever they stumble over in broken bytes
            raise unreadable(path, error) from error
        if mode not in ("P", "L", "RGB", "RGBA", "1"):
            raise UserError(
                f"label map '{path}' is of Pillow's kind '{mode}'; 8-bit grey, palette or RGB PNG was expected"
            )
        labels = self._of_values(pixels) if by_value else self._of_colours(pixels)
        unknown = labels == UNKNOWN
        if unknown.any():
            row, column = np.argwhere(unknown)[0].tolist()
            what = pixels[row, column].tolist()
            said = f"value {what}" if by_value else f"colour {tuple(what)}"
            raise UserError(
                f"label map '{path}' has the {said} at row {row}, column {column}, which is not in the class list;"
                f" expected a class's, background's or void's{' (0 and 255)' if by_value else ''}"
            )
        return labels

    def _of_values(self, pixels: np.ndarray) -> np.ndarray:
        return np.array(self.values, np.int16)[pixels]

    def _of_colours(self, pixels: np.ndarray) -> np.ndarray:
        """Labels int16 [H, W] of colours [H, W, 3]."""
        known = self.colours or {
            tuple(colour): label for colour, label in zip(palette().tolist(), self.values, strict=True)
        }
        codes, places = np.unique(pixels.astype(np.int32) @ (1 << 16, 1 << 8, 1), return_inverse=True)
        found = [known.get((code >> 16, code >> 8 & 255, code & 255), UNKNOWN) for code in codes.tolist()]
        return np.array(found, np.int16)[places.reshape(pixels.shape[:2])]


def renumbered(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Labels int16 [H, W] of a file as the map uint8 [H, W] of chosen classes.

    Args:
        labels: as of `Coding.labels`.
        kept: [classes of the data set], each one's new index, −1 for those not chosen: their pixels are background.
    """
    background = np.uint8((kept >= 0).sum())
    table = np.where(kept >= 0, kept, background)
    table = np.append(table, np.array([VOID, background])).astype(np.uint8)  # −2 is void, −1 background
    return table[labels]


def in_frame(labels: np.ndarray, frame: Frame, size: Sequence[int]) -> np.ndarray:
    """The map uint8 [H, W] as a resized, cropped or mirrored image of `size` (height, width) has it, void outside.

    Each pixel takes the class that its centre lies on.
    """
    left, top, right, bottom = frame.visible
    y, x = (
        frame.scale[axis] * (np.arange(side) + 0.5) + frame.shift[axis] for axis, side in ((1, size[0]), (0, size[1]))
    )
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    rows, columns = (np.floor(place).astype(np.int64) for place in (y, x))
    nearest_cell = np.ix_(rows.clip(0, labels.shape[0] - 1), columns.clip(0, labels.shape[1] - 1))
    return np.where(inside, labels[nearest_cell], np.uint8(VOID))


def in_file(labels: np.ndarray, classes: int) -> Image.Image:
    """A map uint8 [H, W] of `classes` classes as VOC's palette PNG: 0 background, n the n-th class, 255 void."""
    values = np.zeros(256, np.uint8)
    values[:classes] = np.arange(1, classes + 1)
    values[VOID] = VOID
    picture = Image.fromarray(values[labels], mode="P")
    picture.putpalette(palette().tobytes())
    return picture


def overlay(image: np.ndarray, labels: np.ndarray, classes: int, strength: float = 0.6) -> np.ndarray:
    """Pixels uint8 [H, W, 3] under the colours of their map [H, W]; background and void stay as they are."""
    colours = np.concatenate((palette()[1 : classes + 1], np.zeros((256 - classes, 3), np.uint8)))[labels]
    mixed = np.round(image * (1 - strength) + colours * strength).astype(np.uint8)
    return np.where((labels < classes)[:, :, None], mixed, image)


def read_class_list(path: Path, lines: Sequence[str]) -> tuple[list[str], Coding]:
    """The class names of a `classes.txt` and the coding that it states.

    A line is a name, or a name and the red, green and blue of its pixels. The n-th name is value n; a first line
    `background` is value 0, and `void` may be given a colour.

    Raises:
        UserError: a line is neither, a name or colour stands there twice, or colours are given for some lines only.
    """
    names: list[str] = []
    colours: dict[Colour, int] = {}
    for number, line in enumerate(filter(None, (line.strip() for line in lines)), 1):
        name, colour = _class_line(path, number, line)
        if name in names:
            raise UserError(f"'{path}' names a class twice: {name}")
        special = {BACKGROUND_NAME: BACKGROUND, VOID_NAME: IGNORED}.get(name)
        if colour is not None:
            if colour in colours:
                raise UserError(f"'{path}', line {number}: colour {colour} stands for two classes")
            colours[colour] = len(names) if special is None else special
        if special is None:
            names.append(name)
    if not 0 < len(names) <= MOST_CLASSES:
        raise UserError(f"'{path}' names {len(names)} classes; expected 1 to {MOST_CLASSES}")
    coloured = sum(label >= 0 for label in colours.values())
    if coloured not in (0, len(names)):
        raise UserError(f"'{path}' gives colours for {coloured} of its {len(names)} classes; expected all or none")
    if coloured:
        colours = {VOC_BACKGROUND: BACKGROUND, VOC_VOID: IGNORED, **colours}
    else:
        colours = {}
    return names, replace(Coding.of_values(names, names), colours=colours)


def _class_line(path: Path, number: int, line: str) -> tuple[str, Colour | None]:
    """A line's name and colour."""
    words = line.split()
    if len(words) < 4 or not all(word.isdigit() for word in words[-3:]):
        return line, None
    red, green, blue = (int(word) for word in words[-3:])
    if max(red, green, blue) > 255:
        raise UserError(f"'{path}', line {number}: colour {(red, green, blue)} is not within 0–255")
    return " ".join(words[:-3]), (red, green, blue)


def voc_coding(classes: Sequence[str], fixed: bool) -> Coding:
    """How the maps of a VOC root say its `classes`: by their order, and by VOC's own where they are VOC's.

    `fixed` says that a `classes.txt` gives the order.
    """
    return Coding.of_values(classes if fixed or not set(classes) <= set(VOC_CLASSES) else VOC_CLASSES, classes)
