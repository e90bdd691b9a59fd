"""What the classes of a file are called that holds no names.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.semantic import VOC_CLASSES
from rcnn.errors import UserError
from rcnn.evaluation import NO_CLASS
from rcnn.files import telling
from rcnn.interop.imported import Asked

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip
# COCO numbers its 80 classes from 1 to 90; these numbers mean nothing.
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _slots() -> tuple[str, ...]:
    """COCO's numbers 1 to 90 as names, each unused one under a name of its own."""
    names = iter(COCO)
    return tuple(f"{NO_CLASS} {number}" if number in UNUSED else next(names) for number in range(1, 91))


COCO_SLOTS = _slots()

# K → whose classes they are, by their names: COCO's with and without the unused numbers, and VOC's by the alphabet.
PUBLISHED = {
    len(names): (title, names) for title, names in (("COCO", COCO), ("COCO", COCO_SLOTS), ("VOC", VOC_CLASSES))
}


def class_names(path: Path, count: int, asked: Asked) -> tuple[tuple[str, ...], list[str]]:
    """The names of the K = `count` classes of a file, and what to say of them.

    Those asked for; else COCO's or VOC's, where there are as many; else "1" to "K".

    Raises:
        UserError: names were given, but not K.
    """
    if asked.classes is not None:
        if len(asked.classes) != count:
            raise UserError(
                f"'{path}' has {count} classes beside the background, and --classes names {len(asked.classes)}"
            )
        return asked.classes, []
    if count in PUBLISHED:
        title, names = PUBLISHED[count]
        note = f"the file says no names: its {count} classes are taken for {title}'s"
        unused = f"; the {len(UNUSED)} numbers that COCO does not use are called '{NO_CLASS} {UNUSED[0]}', …"
        return tuple(names), [note + (unused if names is COCO_SLOTS else "")]
    return tuple(str(number) for number in range(1, count + 1)), [
        f"the file says no names: its {count} classes are called 1 to {count}; --classes FILE names them"
    ]


def read_names(path: Path) -> tuple[str, ...]:
    """The class names of a text file, one a line; empty lines are passed over.

    Raises:
        UserError: the file cannot be read, is no text, holds no name, or one twice.
    """
    with telling(path):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"--classes '{path}' is not a text file; expected one class name a line") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"--classes '{path}' is empty; expected one class name a line")
    repeated = _first_repeated(names)
    if repeated:
        raise UserError(f"--classes '{path}' names '{repeated}' twice; expected different names")
    return tuple(names)


def _first_repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
