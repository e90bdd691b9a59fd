"""Folders of images with label maps beside them: what semantic segmentation learns from, where nobody drew boxes.

photos/
  images/train/0001.jpg …    sub-folders are splits; without any, all images belong to the data set
  masks/train/0001.png …     as `rcnn.data.semantic` says, under the image's path and name
  classes.txt                a class a line, in the order of their values
"""

from __future__ import annotations

import os
from pathlib import Path

from rcnn.data.folders import images_below
from rcnn.data.images import image_size
from rcnn.data.index import Index, IndexBuilder
from rcnn.data.problems import Problem
from rcnn.data.semantic import read_class_list
from rcnn.data.splits import ALL
from rcnn.data.voc import read_lines
from rcnn.errors import UserError

FORMAT = "label maps"
IMAGES, MAPS, CLASSES = "images", "masks", "classes.txt"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def recognise(root: Path) -> bool:
    """Whether a folder has the two folders and the list."""
    return (root / IMAGES).is_dir() and (root / MAPS).is_dir() and (root / CLASSES).is_file()


def files(root: Path) -> list[str]:
    """Paths of everything that the index depends on."""
    found = [str(root / CLASSES)]
    for folder in (root / IMAGES, root / MAPS):
        found += [os.path.join(parent, name) for parent, _, names in sorted(os.walk(folder)) for name in sorted(names)]
    return found


def read(root: Path) -> tuple[Index, list[Problem]]:
    """Reads all images and which map belongs to each; every image needs one, and every map an image.

    Raises:
        UserError: `classes.txt` cannot be used.
    """
    names, coding = read_class_list(root / CLASSES, read_lines(root / CLASSES))
    maps = {os.path.splitext(name)[0]: name for name in images_below(str(root / MAPS)) if name.lower().endswith(".png")}
    builder, problems = IndexBuilder(names), []
    for name in images_below(str(root / IMAGES)):
        path, stem = root / IMAGES / name, os.path.splitext(name)[0]
        if stem not in maps:
            fix = "add it, or take the image out of the data set"
            problems.append(Problem(f"'{path}'", f"its label map '{root / MAPS / stem}.png' is missing", fix))
            continue
        try:
            size = image_size(path)
        except UserError as error:
            problems.append(Problem(f"'{path}'", str(error), "replace it or take it out of the data set"))
            continue
        row = builder.image(name, f"{IMAGES}/{name}", size, f"'{path}'", map=f"{MAPS}/{maps.pop(stem)}")
        folder = name.split("/")[0] if "/" in name else ""
        builder.members.setdefault(_SPLITS.get(folder, folder or ALL), []).append(row)
    for name in maps.values():
        fix = "add the image, or take the map away"
        problems.append(Problem(f"'{root / MAPS / name}'", f"there is no image of that name in '{root / IMAGES}'", fix))
    return builder.build({"maps": coding.fact}), problems
