"""Pictures of boxes and masks: crisp outlines, legible labels, one steady colour per class; and grids of such pictures.

Pillow alone draws them. Everything scales with the image, so a thumbnail and a 20-megapixel photograph look alike.
Letters: H W height and width, N boxes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rcnn import rle

Colour = tuple[int, int, int]

# Told apart on photographs and from each other; later classes go round the colour circle.
_PALETTE: tuple[Colour, ...] = (
    (232, 62, 66),
    (36, 120, 224),
    (36, 160, 88),
    (245, 166, 22),
    (142, 84, 214),
    (0, 168, 178),
    (230, 84, 158),
    (128, 148, 28),
    (186, 92, 38),
    (86, 108, 148),
)
_GOLDEN_RATIO = 0.618034
# Of a picture's area. Labels that would fill more shrink, and those that find no free place are left out: the colours
# still tell, where the labels would hide what they name.
_CROWDED = 0.2
_TINT = 115  # of 255: how strongly a mask covers what it lies on


@dataclass(frozen=True)
class Mark:
    """One box to draw: corners x1 y1 x2 y2 in pixels, the label's text (may be empty), colour, dashed or not.

    `segment` is its mask as COCO's RLE, laid over the image in the colour; None for no mask.
    """

    box: Sequence[float]
    text: str
    colour: Colour
    dashed: bool = False
    segment: dict[str, Any] | None = None


def class_colour(label: int) -> Colour:
    """The colour of a class, the same in every picture: red, green and blue, each 0–255."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    turn = label * _GOLDEN_RATIO % 1
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.55 + 0.3 * (label % 2), 0.72 + 0.09 * (label % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    classes: Sequence[str],
    *,
    truth: tuple[np.ndarray, np.ndarray] | None = None,
    segments: Sequence[dict[str, Any] | None] | None = None,
    scale: float = 1.0,
) -> Image.Image:
    """The image with its boxes, each with the name of its class and its score where there is one.

    Args:
        image: uint8 [H, W, 3] RGB, or a Pillow image; it is not changed.
        boxes: [N, 4] x1 y1 x2 y2 in pixels of the image.
        labels: [N] index `classes`.
        scores: [N] or None.
        classes: names.
        truth: boxes [G, 4] and labels [G] of the ground truth, drawn dashed below the others.
        segments: N masks as COCO's RLE, laid over the image; None where there are none.
        scale: draw at this many times the size, so that labels stay legible on small images.
    """
    marks = []
    if truth is not None:
        marks += [Mark(box, "", class_colour(int(k)), dashed=True) for box, k in zip(*truth, strict=True)]
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        score = "" if scores is None else f"  {scores[index]:.2f}"
        segment = segments[index] if segments is not None else None
        marks.append(Mark(box, f"{classes[int(label)]}{score}", class_colour(int(label)), segment=segment))
    return draw_marks(image, marks, scale=scale)


def draw_marks(image: np.ndarray | Image.Image, marks: Sequence[Mark], *, scale: float = 1.0) -> Image.Image:
    """The image uint8 [H, W, 3] or Pillow with marked boxes; small boxes over large ones, labels over all.

    `scale` as of `draw_boxes`; the marks are in pixels of the image as it came.
    """
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    if scale != 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    side = min(picture.size)
    line = max(2, round(side / 220))
    font = ImageFont.load_default(size=min(max(side / 30, 11), 44))
    draw = ImageDraw.Draw(picture)
    filled = sum(width * height for width, height in (_room(draw, mark.text, font, line)[:2] for mark in marks))
    if crowded := filled > _CROWDED * picture.width * picture.height:
        font = ImageFont.load_default(size=min(max(side / 48, 9), 28))
    scaled = [
        (tuple(float(v) * scale for v in mark.box), mark)
        for mark in marks
        if np.isfinite(np.asarray(mark.box, np.float64)).all()
    ]
    scaled.sort(key=lambda row: -(row[0][2] - row[0][0]) * (row[0][3] - row[0][1]))
    for _, mark in scaled:
        if mark.segment is not None:
            _lay_over(picture, mark.segment, mark.colour)
    for box, mark in scaled:
        _outline(draw, box, mark, line)
    taken: list[tuple[float, float, float, float]] = []
    for box, mark in scaled:
        if mark.text:
            taken += _label(draw, box, mark, font, line, taken, must=not crowded)
    return picture


def picture_grid(
    pictures: Sequence[Image.Image], *, columns: int = 4, cell: tuple[int, int] = (320, 240), gap: int = 8
) -> Image.Image:
    """Pictures in rows of `columns`, each fitted into a cell of (width, height) pixels, on white with gaps between."""
    width, height = cell
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, picture in enumerate(pictures):
        scale = min(width / picture.width, height / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        left = gap + index % columns * (width + gap) + (width - size[0]) // 2
        top = gap + index // columns * (height + gap) + (height - size[1]) // 2
        sheet.paste(fitted, (left, top))
    return sheet


def _lay_over(picture: Image.Image, segment: dict[str, Any], colour: Colour) -> None:
    """Tints the pixels of a mask, an RLE in the picture's size or the size that it had before it was scaled."""
    mask = rle.decode(segment)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    wide, high = picture.width / mask.shape[1], picture.height / mask.shape[0]
    corner = round(left * wide), round(top * high)
    size = max(1, round(right * wide) - corner[0]), max(1, round(bottom * high) - corner[1])
    cover = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * _TINT).resize(size)
    picture.paste(colour, (*corner, corner[0] + size[0], corner[1] + size[1]), cover)


def _outline(draw: ImageDraw.ImageDraw, box: Sequence[float], mark: Mark, line: int) -> None:
    """A rectangle whose outer edge is the box's, with a thin dark rim that keeps it visible on any ground."""
    x1, y1 = round(box[0]), round(box[1])
    x2, y2 = max(round(box[2]) - 1, x1), max(round(box[3]) - 1, y1)  # the right and bottom pixel are the last inside
    if not mark.dashed:
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(20, 20, 20), width=1)
        draw.rectangle((x1, y1, x2, y2), outline=mark.colour, width=line)
        return
    draw.rectangle((x1, y1, x2, y2), outline=(20, 20, 20), width=line)
    dash = 4 * line
    for x in range(x1, x2 + 1, 2 * dash):
        end = min(x + dash - 1, x2)
        draw.rectangle((x, y1, end, y1 + line - 1), fill=mark.colour)
        draw.rectangle((x, y2 - line + 1, end, y2), fill=mark.colour)
    for y in range(y1, y2 + 1, 2 * dash):
        end = min(y + dash - 1, y2)
        draw.rectangle((x1, y, x1 + line - 1, end), fill=mark.colour)
        draw.rectangle((x2 - line + 1, y, x2, end), fill=mark.colour)


def _label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    mark: Mark,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
    taken: Sequence[tuple[float, float, float, float]],
    *,
    must: bool,
) -> list[tuple[float, float, float, float]]:
    """Draws the label where it fits and covers no other: above the box, inside its top, below it; says where.

    Where there is no such place, it is drawn all the same if it `must` be.
    """
    x1, y1, _, y2 = box
    width, height, pad, rise = _room(draw, mark.text, font, line)
    limit_x, limit_y = draw.im.size[0] - width, draw.im.size[1] - height
    places = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height)]
    rooms = []
    for x, y in places:
        left, top = round(min(max(x, 0), max(limit_x, 0))), round(min(max(y, 0), max(limit_y, 0)))
        rooms.append((left, top, left + width, top + height))
    free = [room for room in rooms if not any(_touch(room, other) for other in taken)]
    if not free and not must:
        return []
    room = (free or rooms)[0]
    draw.rounded_rectangle(room, radius=line, fill=mark.colour, outline=(20, 20, 20), width=1)
    luminance = np.dot(mark.colour, (0.299, 0.587, 0.114))
    ink = (16, 16, 16) if luminance > 140 else (255, 255, 255)
    draw.text((room[0] + pad, room[1] + pad - rise), mark.text, fill=ink, font=font)
    return [room]


def _room(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, line: int
) -> tuple[float, float, float, float]:
    """Width and height of a label in pixels, the space around its text, and how far the text's top lies below y."""
    if not text:
        return 0.0, 0.0, 0.0, 0.0
    capital = font.getbbox("A")
    pad = max(4, 2 * line)  # below the line it also holds what descends
    return draw.textlength(text, font=font) + 2 * pad, capital[3] - capital[1] + 2 * pad, pad, capital[1]


def _touch(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two rectangles x1 y1 x2 y2 share some area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
