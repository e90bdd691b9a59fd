"""What the classes of a file are called that holds no names.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def class_names(path: Path, count: int, asked: Asked) -> tuple[tuple[str, ...], list[str]]:
    """The names of the K = `count` classes of a file, and what to say of them.

    Those asked for; else COCO's, where there are as many as it has numbers; else "1" to "K".

    Raises:
        UserError: names were given, but not K.
    """
    if asked.classes is not None:
        if len(asked.classes) != count:
            raise UserError(
                f"'{path}' has {count} classes beside the background, and --classes names {len(asked.classes)}"
            )
        return asked.classes, []
    if count == len(COCO_SLOTS):
        empty = len(UNUSED)
        return COCO_SLOTS, [
            f"classes are COCO's numbers 1 to 90; the {empty} unused ones are called '{NO_CLASS} 12', …"
        ]
    return tuple(str(number) for number in range(1, count + 1)), [
        f"the file does not say what its {count} classes are called: they are 1 to {count}; --classes FILE names them"
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
