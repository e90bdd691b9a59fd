"""YOLO's text labels behind a `data.yaml`: one line per object, in fractions of the image's width and height.

A line is `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 …` for a polygon, whose extent is then the box. An image
without label file has no objects. What these lines cannot say (difficult, crowd, area, masks beside boxes) stands in a
file `rcnn.json` beside the labels, which `rcnn data convert` writes: label file → line → facts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rcnn.data.coco import load_json
from rcnn.data.folders import images_below, relative
from rcnn.data.images import image_size, is_image
from rcnn.data.index import Index, IndexBuilder
from rcnn.data.problems import Problem, check_boxes
from rcnn.data.segments import require_segment
from rcnn.data.voc import read_lines
from rcnn.errors import UserError

FORMAT = "YOLO"
FACTS = "rcnn.json"
_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def recognise(path: Path) -> bool:
    """Whether a path is a YAML file or a folder with a `data.yaml`."""
    return path.suffix.lower() in (".yaml", ".yml") if path.is_file() else yaml_of(path) is not None


def yaml_of(path: Path) -> Path | None:
    """The YAML file of a path: itself, or `data.yaml` (else the only other one) in it."""
    if path.is_file():
        return path
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    named = [one for one in found if one.stem in ("data", "dataset")]
    return named[0] if named else None


def files(root: Path) -> list[str]:
    """Paths of everything that the index depends on."""
    path = _require_yaml(root)
    found = [str(path), str(path.parent / FACTS)]
    for images in _splits(path, _load_yaml(path)).values():
        for image in images:
            found += [image, label_path(image)]
    return found


def read(root: Path) -> tuple[Index, list[Problem]]:
    """Reads all splits that a `data.yaml` names.

    Raises:
        UserError: the YAML, a list of images or `rcnn.json` cannot be used.
    """
    path = _require_yaml(root)
    content = _load_yaml(path)
    problems: list[Problem] = []
    builder = IndexBuilder(_names(path, content))
    facts = _facts(path.parent / FACTS)
    for split, images in _splits(path, content).items():
        rows = builder.members[split] = []
        for image, name in images.items():
            try:
                size = image_size(image)
            except UserError as error:
                problems.append(Problem(f"'{image}'", str(error), "replace it or take it out"))
                continue
            label = label_path(image)
            rows.append(builder.image(name, relative(Path(image), path.parent), size, f"'{label}'"))
            try:
                _read_labels(Path(label), size, facts.get(relative(Path(label), path.parent), {}), builder, problems)
            except UserError as error:
                problems.append(Problem(f"'{label}'", str(error), "write it again"))
    index = builder.build()
    return index, problems + check_boxes(builder, index)


def label_path(image: str) -> str:
    """The label file of an image: the last folder called `images` becomes `labels`, the suffix .txt."""
    before, folder, after = f"/{image}".rpartition("/images/")
    stem = os.path.splitext(f"{before}/labels/{after}" if folder else f"/{image}")[0]
    return f"{stem[1:]}.txt"


def _require_yaml(root: Path) -> Path:
    """The YAML file of a data set that was recognised as YOLO's."""
    path = yaml_of(root)
    if path is None:
        raise UserError(f"'{root}' has no data.yaml")
    return path


def _load_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds; only plain values are read, no Python objects."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"'{path}' is not sound YAML{where}; write it again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds no settings; expected 'train', 'val' and 'names'")
    return content


def _names(path: Path, content: dict[str, Any]) -> list[str]:
    """Class names, from a list or a dictionary by number."""
    names = content.get("names")
    if not names:
        raise UserError(f"'{path}' has no 'names'; list the classes there, as in `names: [cat, dog]`")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(str(i) for i in range(len(names))):
            raise UserError(f"'{path}': the keys of 'names' must be 0 … {len(names) - 1}, each once")
        names = [name for _, name in sorted((int(key), name) for key, name in names.items())]
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(f"'{path}': 'names' must be a list of class names")
    names = [str(name).strip() for name in names]
    if not all(names):
        raise UserError(f"'{path}' has an empty class name in 'names'")
    if len(set(names)) < len(names):
        raise UserError(f"'{path}' names class '{next(n for n in names if names.count(n) > 1)}' twice")
    count = content.get("nc", len(names))
    if count != len(names):
        raise UserError(f"'{path}' says 'nc: {count}' but lists {len(names)} names")
    return names


def _splits(path: Path, content: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Image paths of each split, and what the images are called."""
    splits: dict[str, dict[str, str]] = {}
    for key, split in _KEYS.items():
        value = content.get(key)
        if not value or split in splits:
            continue
        entries = value if isinstance(value, list) else [value]
        if not all(isinstance(entry, str) and "\0" not in entry for entry in entries):
            raise UserError(f"'{path}': '{key}' must be a folder, a list file, or a list of those")
        splits[split] = dict(pair for entry in entries for pair in _images(path, content, key, entry))
    if not splits:
        raise UserError(f"'{path}' names no images; expected 'train' and 'val'")
    return splits


def _images(path: Path, content: dict[str, Any], key: str, entry: str) -> Iterator[tuple[str, str]]:
    """The images that one entry of a split names, with their names: paths below the entry or a folder `images`."""
    stated = content.get("path")
    bases = [str(path.parent / stated)] if isinstance(stated, str) and "\0" not in stated else []
    bases.append(str(path.parent))
    tries = [os.path.join(base, part) for base in bases for part in (entry, entry.removeprefix("../"))]
    place = next((os.path.normpath(one) for one in tries if os.path.exists(one)), None)
    if place is None:
        raise UserError(f"'{path}': '{key}: {entry}' does not exist; looked for '{tries[0]}'")
    if os.path.isdir(place):
        for name in images_below(place):
            yield f"{place}/{name}", name
    elif is_image(place):
        yield place, os.path.basename(place)
    else:
        # Lists count from where they stand ("./images/…") or from the data set's root.
        bases.insert(0, os.path.dirname(place))
        for line in filter(None, map(str.strip, read_lines(Path(place)))):
            options = [os.path.join(base, line) for base in bases]
            image = os.path.normpath(next(filter(os.path.exists, options), options[0])).replace(os.sep, "/")
            yield image, image.rpartition("/images/")[2] if "/images/" in image else os.path.basename(image)


def _facts(path: Path) -> dict[str, dict[str, Any]]:
    """What `rcnn.json` adds to the labels; empty where there is none."""
    content = load_json(path) if path.exists() else {}
    if not isinstance(content, dict) or not all(isinstance(lines, dict) for lines in content.values()):
        raise UserError(f"'{path}' must map label files to lines to facts, as `rcnn data convert` writes it")
    return content


def _read_labels(
    path: Path, size: tuple[int, int], facts: dict[str, Any], builder: IndexBuilder, problems: list[Problem]
) -> None:
    """Adds the objects of one label file, reporting the lines that cannot be used."""
    if not path.exists():
        return
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        extra = facts.get(str(number), {})
        try:
            label, box, polygon = _read_line(fields, size, builder.classes)
        except ValueError as error:
            problems.append(Problem(f"'{path}', line {number}", str(error), "correct it or take it out"))
            continue
        try:
            segment = require_segment(extra.get("segmentation", polygon), size)
        except (ValueError, AttributeError) as error:
            problems.append(Problem(f"'{path}', line {number}", f"{FACTS}: {error}", f"correct {FACTS}"))
            continue
        builder.object(
            box,
            label,
            f"line {number}",
            difficult=bool(extra.get("difficult")),
            crowd=bool(extra.get("crowd")),
            segment=segment,
            area=extra.get("area"),
        )


def _read_line(
    fields: list[str], size: tuple[int, int], classes: list[str]
) -> tuple[int, tuple[float, float, float, float], list[list[float]] | None]:
    """Label, box in pixels, and polygon (None for a plain box) of one line; ValueError says what is wrong."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        odd = next(field for field in fields if not _is_float(field))
        raise ValueError(f"'{odd}' is not a number") from None
    if not math.isfinite(values[0]) or values[0] != int(values[0]) or not 0 <= values[0] < len(classes):
        raise ValueError(f"class {fields[0]} is out of range: 'names' has 0 … {len(classes) - 1}")
    height, width = size
    label, rest = int(values[0]), values[1:]
    if len(rest) == 4:
        x, y, w, h = rest
        return label, ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height), None
    if len(rest) < 6 or len(rest) % 2:
        raise ValueError(f"it has {len(fields)} columns where 5 (a box), or 7, 9, 11 … (a polygon) were expected")
    if not all(map(math.isfinite, rest)):
        raise ValueError("a corner of its polygon is not finite")
    xs, ys = [x * width for x in rest[::2]], [y * height for y in rest[1::2]]
    polygon = [value for corner in zip(xs, ys, strict=True) for value in corner]
    return label, (min(xs), min(ys), max(xs), max(ys)), [polygon]


def _is_float(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
