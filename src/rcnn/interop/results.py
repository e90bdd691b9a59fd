"""Results of detectors as other programs keep them: COCO's JSON list, VOC's text files, supervision's objects.

COCO: `[{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation"?: RLE}]`
(https://cocodataset.org/#format-results). VOC: a file for each class, `comp4_det_SPLIT_CLASS.txt`, of lines
`IMAGE SCORE xmin ymin xmax ymax`, whose pixels count from 1 and whose corners are both inside (VOC2012 devkit, section
8.2). Letters: D detections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rcnn.data import Dataset
from rcnn.data.coco import load_json, published_ids
from rcnn.data.segments import require_segment
from rcnn.detectors import Detections
from rcnn.errors import UserError, nearest
from rcnn.evaluation import Prediction
from rcnn.files import telling, write_text

VOC_FILE = "comp4_det_{split}_{name}.txt"


def stem_id(image: str) -> int | str:
    """An image's id where none is published: its name without folder and suffix, as a number where it is one."""
    stem = PurePosixPath(image.replace("\\", "/")).stem
    return int(stem) if re.fullmatch(r"[0-9]{1,18}", stem) else stem


def write_coco(
    path: str | Path,
    found: Iterable[Detections],
    *,
    image_ids: Sequence[int | str] | None = None,
    category_ids: Sequence[int] | None = None,
) -> Path:
    """Writes detections as COCO results, whole or not at all; returns the path.

    Args:
        path: the JSON file.
        found: the detections of each image.
        image_ids: of each image; None for `stem_id` of its file, which is COCO's own for its photos.
        category_ids: of the K classes; None for index + 1, which is COCO's own for models of its 90 numbers.

    Raises:
        UserError: as many ids as images were expected, or the place cannot be written to.
    """
    images = list(found)
    ids = [stem_id(each.image) for each in images] if image_ids is None else list(image_ids)
    if len(ids) != len(images):
        raise UserError(f"expected one image id for each of {len(images)} images, got {len(ids)}")
    rows = [row for each, key in zip(images, ids, strict=True) for row in each.to_coco(key, category_ids)]
    write_text(path, json.dumps(rows) + "\n")
    return Path(path)


def read_coco(path: str | Path, dataset: Dataset) -> list[Prediction]:
    """COCO results of the images of a data set, in their order; results of classes it leaves out are passed over.

    Images and classes are known by the ids of the data set's own JSON; in other data sets an image by `stem_id` or its
    name, and a class by its place from 1 on.

    Raises:
        UserError: the file is no list of results, or a result has an unknown image or class, or is unsound.
    """
    content = load_json(Path(path))
    if not isinstance(content, list):
        raise UserError(f"'{path}' is no file of COCO results: expected a list of detections")
    rows, labels = _rows(dataset), _labels(dataset)
    gathered: list[list[tuple[list[float], float, int, Any]]] = [[] for _ in range(len(dataset))]
    for number, entry in enumerate(content, 1):
        row, label, box, score = _result(path, number, entry, rows, labels)
        try:
            segment = require_segment(entry.get("segmentation"), dataset.size(row)) if label >= 0 else None
        except ValueError as error:
            raise UserError(f"'{path}': result {number}: {error}") from error
        if label >= 0:
            gathered[row].append((box, score, label, segment))
    return [_prediction(found) for found in gathered]


def _rows(dataset: Dataset) -> dict[Any, int]:
    """Each image's row by everything that it may be called."""
    names = [dataset.name(i) for i in range(len(dataset))]
    published = published_ids(Path(dataset.data), dataset.split)[0] if dataset.format == "COCO" else {}
    rows: dict[Any, int] = {}
    for row, name in enumerate(names):
        rows |= {name: row, stem_id(name): row}
    return rows | {published[name]: row for row, name in enumerate(names) if name in published}


def _labels(dataset: Dataset) -> dict[Any, int]:
    """The label of each category id; −1 for classes that the data set has and leaves out."""
    ids: Mapping[str, Any] = {name: index for index, name in enumerate(dataset.index.classes, 1)}
    if dataset.format == "COCO":
        ids = published_ids(Path(dataset.data), dataset.split)[1]
    return {key: dataset.classes.index(name) if name in dataset.classes else -1 for name, key in ids.items()}


def _result(
    path: str | Path, number: int, entry: Any, rows: Mapping[Any, int], labels: Mapping[Any, int]
) -> tuple[int, int, list[float], float]:
    """One result's image, label, box x1 y1 x2 y2 and score."""
    where = f"'{path}': result {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object with image_id, category_id, bbox and score")
    key, category, box, score = (entry.get(name) for name in ("image_id", "category_id", "bbox", "score"))
    if not isinstance(key, int | str) or key not in rows:
        raise UserError(f"{where} has image_id {key!r}, which is no image of the data set{nearest(str(key), rows)}")
    if not isinstance(category, int) or category not in labels:
        raise UserError(f"{where} has category_id {category!r}{nearest(str(category), labels)}")
    sides = box if isinstance(box, list) and len(box) == 4 else [None]
    if score is None or not all(isinstance(value, int | float) for value in (*sides, score)):
        raise UserError(f"{where} needs a bbox of four numbers x, y, width, height, and a score")
    x, y, width, height = map(float, sides)
    return rows[key], labels[category], [x, y, x + width, y + height], float(score)


def _prediction(found: list[tuple[list[float], float, int, Any]]) -> Prediction:
    """The detections of one image; masks where all of them have one."""
    boxes = np.array([box for box, *_ in found], np.float64).reshape(-1, 4)
    segments = [segment for *_, segment in found]
    masks = segments if found and all(isinstance(segment, dict) for segment in segments) else None
    scores, labels = np.array([row[1] for row in found], np.float64), np.array([row[2] for row in found], np.int64)
    return Prediction(boxes, scores, labels, masks)


def write_voc(folder: str | Path, found: Iterable[Detections], split: str) -> list[Path]:
    """Writes detections as VOC results, a file for each class, and returns their paths.

    An image is called by its file's name without suffix.
    """
    images = list(found)
    classes = images[0].classes if images else ()
    lines: list[list[str]] = [[] for _ in classes]
    for each in images:
        name = PurePosixPath(each.image.replace("\\", "/")).stem
        for (x1, y1, x2, y2), score, label in zip(each.boxes.tolist(), each.scores, each.labels, strict=True):
            lines[label].append(f"{name} {score:.6f} {x1 + 1:.3f} {y1 + 1:.3f} {x2:.3f} {y2:.3f}\n")
    paths = [Path(folder) / VOC_FILE.format(split=split, name=name) for name in classes]
    for path, own in zip(paths, lines, strict=True):
        write_text(path, "".join(own))
    return paths


def read_voc(folder: str | Path, dataset: Dataset) -> list[Prediction]:
    """VOC results of the images of a data set, in their order, of its split's files, or of the only split there is.

    A class without a file has no detections.

    Raises:
        UserError: no such files, an unknown image, or a line that is none of theirs.
    """
    folder = Path(folder)
    rows = _rows(dataset)
    stems = {PurePosixPath(dataset.name(i)).stem: i for i in range(len(dataset))}
    gathered: list[list[tuple[list[float], float, int, Any]]] = [[] for _ in range(len(dataset))]
    split = _voc_split(folder, dataset)
    for label, name in enumerate(dataset.classes):
        path = folder / VOC_FILE.format(split=split, name=name)
        if not path.is_file():
            continue
        with telling(path):
            text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words:
                continue
            row = stems.get(words[0], rows.get(words[0]))
            if row is None:
                raise UserError(
                    f"'{path}', line {number}: no image '{words[0]}' in the data set{nearest(words[0], stems)}"
                )
            try:
                score, x1, y1, x2, y2 = map(float, words[1:])
            except ValueError as error:
                raise UserError(
                    f"'{path}', line {number}: expected IMAGE SCORE xmin ymin xmax ymax, got '{line}'"
                ) from error
            gathered[row].append(([x1 - 1, y1 - 1, x2, y2], score, label, None))
    return [_prediction(found) for found in gathered]


def _voc_split(folder: Path, dataset: Dataset) -> str:
    """Which split's files lie in the folder."""
    names = [file.name for file in sorted(folder.glob("comp4_det_*.txt"))] if folder.is_dir() else []
    splits = {
        name.removeprefix("comp4_det_").removesuffix(f"_{known}.txt")
        for name in names
        for known in dataset.classes
        if name.endswith(f"_{known}.txt")
    }
    if not splits:
        wanted = VOC_FILE.format(split=dataset.split, name=dataset.classes[0])
        raise UserError(f"'{folder}' holds no VOC results of the data set's classes: expected files such as '{wanted}'")
    if dataset.split in splits or len(splits) > 1:
        return dataset.split
    return splits.pop()


def are_results(path: str | Path) -> bool:
    """Whether a path is that of COCO results or of a folder of VOC's, and not a model's."""
    path = Path(path)
    if path.is_dir():
        return not (path / "model.json").exists() and any(path.glob("comp4_det_*.txt"))
    return path.suffix.lower() == ".json" and path.name != "model.json" and path.is_file()


def read_results(path: str | Path, dataset: Dataset) -> list[Prediction]:
    """COCO's or VOC's results, whichever the path holds; errors as of `read_coco` and `read_voc`."""
    return read_voc(path, dataset) if Path(path).is_dir() else read_coco(path, dataset)


def from_supervision(found: Any, classes: Sequence[str], *, image: str = "", size: tuple[int, int]) -> Detections:
    """A `supervision.Detections` as ours: the way back from `Detections.to_supervision`.

    Args:
        found: has `xyxy` [D, 4], and perhaps `confidence` [D] (else 1), `class_id` [D] (else 0) and `mask` [D, H, W].
        classes: names that its `class_id` index.
        image: the file's path.
        size: height and width of the image in pixels.

    Raises:
        UserError: a class id without a name.
    """
    from rcnn import rle

    boxes = np.asarray(found.xyxy, np.float32).reshape(-1, 4)
    scores = np.ones(len(boxes), np.float32) if found.confidence is None else np.asarray(found.confidence, np.float32)
    labels = np.zeros(len(boxes), np.int64) if found.class_id is None else np.asarray(found.class_id, np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(f"class_id {labels.max()}: expected 0 to {len(classes) - 1}, one of the {len(classes)} classes")
    order = np.argsort(-scores, kind="stable")
    masks = None
    if found.mask is not None:
        masks = [rle.compressed(rle.encode(np.asarray(found.mask[d], bool)), size) for d in order]
    height, width = size
    rows = boxes[order], scores[order], labels[order]
    return Detections(*rows, tuple(classes), image, width, height, segments=masks)
