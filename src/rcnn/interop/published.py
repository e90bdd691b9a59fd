"""What the classes of a file are called that holds no names, by how many there are.

Letters: K classes.
"""

from __future__ import annotations

from pathlib import Path

from rcnn.data.semantic import VOC_CLASSES
from rcnn.errors import UserError
from rcnn.interop.imported import Asked
from rcnn.interop.names import COCO

# COCO's in the order of its numbers, VOC's in that of the alphabet: Detectron2's, py-faster-rcnn's and R-FCN's alike.
PUBLISHED = {len(names): (title, tuple(names)) for title, names in (("COCO", COCO), ("VOC", VOC_CLASSES))}


def class_names(path: Path, count: int, asked: Asked) -> tuple[tuple[str, ...], list[str]]:
    """The names of the K = `count` classes of a file, and what to say of them: those asked for, else COCO's or VOC's.

    Raises:
        UserError: names were given, but not K; or none, and no published set has K.
    """
    if asked.classes is not None:
        if len(asked.classes) != count:
            raise UserError(f"'{path}' has {count} classes beside background, and --classes names {len(asked.classes)}")
        return asked.classes, []
    if count not in PUBLISHED:
        raise UserError(f"'{path}' has {count} classes and says no names; expected a file of {count} as --classes")
    title, names = PUBLISHED[count]
    return names, [f"the file says no names: its {count} classes are taken for {title}'s"]
