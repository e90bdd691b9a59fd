"""Writing annotations as VOC, COCO or YOLO, such that reading them again gives the same.

Where a format has no word for something, it is said in a way that others pass over and our reader understands: VOC
gets `<iscrowd>`, `<area>`, `<segmentation>` and `classes.txt`, YOLO gets `rcnn.json`. Numbers are written in as few
digits as bring the same float32 back. G are the objects of one image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from rcnn.data.dataset import Truth
from rcnn.data.label_maps import CLASSES, IMAGES, MAPS
from rcnn.data.segments import segment_area
from rcnn.data.yolo import FACTS
from rcnn.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One image to be written: what it will be called, its height and width in pixels, and its objects."""

    name: str
    size: tuple[int, int]
    truth: Truth

    @property
    def stem(self) -> str:
        """The name without suffix."""
        return Path(self.name).with_suffix("").as_posix()


@dataclass(frozen=True)
class Writer:
    """How one format is written.

    Attributes:
        write: writes annotations into a folder, given the class names, the entries, and which of them each split has.
        image_path: where an image of a split is kept, from its split and name.
        any_split: whether splits beside train, val and test can be told; they may overlap if so.
        map_path: where the label map of an image is kept, from its split and name; None where the format has no place.
        boxes: whether the format has a place for objects.
    """

    write: Callable[[Path, Sequence[str], Sequence[Entry], Mapping[str, Sequence[int]]], None]
    image_path: Callable[[str, str], str]
    any_split: bool
    map_path: Callable[[str, str], str] | None = None
    boxes: bool = True


def write_voc(
    folder: Path, classes: Sequence[str], entries: Sequence[Entry], splits: Mapping[str, Sequence[int]]
) -> None:
    """Writes Annotations/*.xml, ImageSets/Main/*.txt (none for images without splits) and classes.txt."""
    for name in classes:
        if not name.isprintable():
            raise UserError(f"class {name!r} cannot be written in XML; rename it")
    for entry in entries:
        _write_text(folder / "Annotations" / f"{entry.stem}.xml", _voc_xml(entry, classes))
    for split, members in splits.items():
        if split != "all":
            lines = "".join(f"{entries[i].stem}\n" for i in members)
            _write_text(folder / "ImageSets" / "Main" / f"{split}.txt", lines)
    _write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def _voc_xml(entry: Entry, classes: Sequence[str]) -> str:
    """One image's annotation as VOC XML."""
    height, width = entry.size
    segmented = int(any(segment is not None for segment in entry.truth.segments))
    size = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    lines = [
        "<annotation>",
        f"  <filename>{escape(entry.name)}</filename>",
        f"  <size>{size}</size>",
        f"  <segmented>{segmented}</segmented>",
    ]
    truth, areas = entry.truth, _areas(entry.truth)
    for g, (box, label) in enumerate(zip(truth.boxes, truth.labels.tolist(), strict=True)):
        x1, y1, x2, y2 = (_shortest(value) for value in box)
        corners = {"xmin": _shifted(x1, 1), "ymin": _shifted(y1, 1), "xmax": x2, "ymax": y2}
        lines += [
            "  <object>",
            f"    <name>{escape(classes[label])}</name>",
            f"    <difficult>{int(truth.difficult[g])}</difficult>",
            "    <bndbox>" + "".join(f"<{tag}>{_text(value)}</{tag}>" for tag, value in corners.items()) + "</bndbox>",
        ]
        if truth.crowd[g]:
            lines.append("    <iscrowd>1</iscrowd>")
        if np.isfinite(areas[g]):
            lines.append(f"    <area>{_text(areas[g])}</area>")
        if truth.segments[g] is not None:
            lines.append(f"    <segmentation>{escape(_compact(truth.segments[g]))}</segmentation>")
        lines.append("  </object>")
    return "\n".join([*lines, "</annotation>", ""])


def write_coco(
    folder: Path, classes: Sequence[str], entries: Sequence[Entry], splits: Mapping[str, Sequence[int]]
) -> None:
    """Writes annotations/instances_<split>.json, categories numbered from 1."""
    categories = [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(classes, 1)]
    for split, members in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in members:
            height, width = entries[i].size
            images.append({"id": i + 1, "file_name": entries[i].name, "width": width, "height": height})
            for one in _coco_objects(entries[i].truth):
                annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **one})
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        name = "instances.json" if split == "all" else f"instances_{split}.json"
        _write_text(folder / "annotations" / name, _compact(content))


def _coco_objects(truth: Truth) -> list[dict[str, Any]]:
    """One image's objects as COCO annotations, without ids."""
    objects, areas = [], _areas(truth)
    for g, (box, label) in enumerate(zip(truth.boxes, truth.labels.tolist(), strict=True)):
        bbox = _coco_box(box)
        segment = truth.segments[g]
        if not np.isfinite(areas[g]):
            areas[g] = round(bbox[2] * bbox[3] if segment is None else segment_area(segment), 4)
        objects.append(
            {
                "category_id": label + 1,
                "bbox": bbox,
                "area": _plain(areas[g]),
                "iscrowd": int(truth.crowd[g]),
                "ignore": int(truth.difficult[g]),
                "segmentation": [] if segment is None else segment,
            }
        )
    return objects


def _areas(truth: Truth) -> list[float]:
    """The stated area of each object; NaN where there is none, or no other than its outline or box has."""
    if truth.areas is None:
        return [float("nan")] * len(truth)
    sides = truth.boxes[:, 2:].astype(np.float64) - truth.boxes[:, :2]
    own = [sides[g].prod() if s is None else segment_area(s) for g, s in enumerate(truth.segments)]
    return np.where(np.isclose(truth.areas, own, rtol=1e-6, atol=1e-4), np.nan, truth.areas).tolist()


def _coco_box(box: np.ndarray) -> list[float]:
    """Corners [4] as x, y, width, height whose sums are the same float32 corners."""
    x1, y1, x2, y2 = (_shortest(value) for value in box)
    width, height = round(x2 - x1, 6), round(y2 - y1, 6)
    if np.float32(x1 + width) != box[2] or np.float32(y1 + height) != box[3]:
        x1, y1, x2, y2 = box.astype(float).tolist()  # differences of float32 are exact in float64
        width, height = x2 - x1, y2 - y1
    return [_plain(value) for value in (x1, y1, width, height)]


def write_yolo(
    folder: Path, classes: Sequence[str], entries: Sequence[Entry], splits: Mapping[str, Sequence[int]]
) -> None:
    """Writes data.yaml, labels/<split>/*.txt with a box a line, and rcnn.json with what they cannot say."""
    import yaml

    if not classes:
        raise UserError("a YOLO data set needs at least one class, and this one has no objects")
    facts: dict[str, dict[str, Any]] = {}
    for split, members in splits.items():
        for i in members:
            label = f"labels/{split}/{entries[i].stem}.txt"
            lines, extra = _yolo_lines(entries[i])
            _write_text(folder / label, lines)
            if extra:
                facts[label] = extra
    content = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(classes))}
    _write_text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    if facts:
        _write_text(folder / FACTS, _compact(facts))


def _yolo_lines(entry: Entry) -> tuple[str, dict[str, Any]]:
    """One image's label file, and the facts by line number that it cannot hold."""
    height, width = entry.size
    truth = entry.truth
    corners = truth.boxes.astype(np.float64) / (width, height, width, height)  # [G, 4]
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    lines, facts, areas = [], {}, _areas(truth)
    for g, label in enumerate(truth.labels.tolist()):
        lines.append(" ".join([str(label), *(f"{value:.10g}" for value in (*centres[g], *sides[g]))]))
        extra: dict[str, Any] = {}
        if truth.difficult[g]:
            extra["difficult"] = True
        if truth.crowd[g]:
            extra["crowd"] = True
        if np.isfinite(areas[g]):
            extra["area"] = _plain(areas[g])
        if truth.segments[g] is not None:
            extra["segmentation"] = truth.segments[g]
        if extra:
            facts[str(g + 1)] = extra
    return "".join(f"{line}\n" for line in lines), facts


def write_label_maps(
    folder: Path, classes: Sequence[str], entries: Sequence[Entry], splits: Mapping[str, Sequence[int]]
) -> None:
    """Writes classes.txt; images and maps are in their places."""
    _write_text(folder / CLASSES, "".join(f"{name}\n" for name in classes))


def _in_split(folder: str, split: str, name: str) -> str:
    return f"{folder}/{name}" if split == "all" else f"{folder}/{split}/{name}"


WRITERS = {
    "voc": Writer(
        write_voc,
        lambda split, name: f"JPEGImages/{name}",
        any_split=True,
        map_path=lambda split, name: f"SegmentationClass/{name}",
    ),
    "masks": Writer(
        write_label_maps,
        lambda split, name: _in_split(IMAGES, split, name),
        any_split=False,
        map_path=lambda split, name: _in_split(MAPS, split, name),
        boxes=False,
    ),
    "coco": Writer(write_coco, lambda split, name: f"images/{name}", any_split=False),
    "yolo": Writer(write_yolo, lambda split, name: f"images/{split}/{name}", any_split=False),
}


def _write_text(path: Path, text: str) -> None:
    """Writes a file into the folder being made, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _shortest(value: np.float32) -> float:
    """The float64 with the fewest digits that rounds to a float32."""
    return float(str(value))


def _shifted(value: float, by: int) -> float:
    """`value + by` in few digits, such that taking `by` off gives the same float32 again."""
    short = round(value + by, 7)
    return short if np.float32(short - by) == np.float32(value) else float(np.float32(value)) + by


def _plain(value: float) -> float:
    """A number as JSON's integer where it is one."""
    return int(value) if value == int(value) else value


def _text(value: float) -> str:
    """A number without needless digits."""
    return repr(_plain(value))
