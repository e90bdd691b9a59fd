"""A data set's annotations as a few numpy columns instead of many Python objects.

100,000 annotations take a few megabytes, load from the cache without being read (memory-mapped), and worker processes
share the pages instead of growing. Letters: N images, G ground-truth objects of all images together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Strings:
    """Many byte strings as one: string i is `blob[offsets[i]:offsets[i + 1]]`.

    Attributes:
        blob: [L] uint8.
        offsets: [N + 1] int64.
    """

    blob: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Strings:
        """Packs byte strings."""
        parts = list(strings)
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes()


@dataclass
class Index:
    """All images and objects of a data set, and which images make up each split.

    Attributes:
        classes: names; labels index them.
        names: N image names, relative to the folder of images.
        files: N image paths, relative to `root`; empty where images live in memory.
        maps: N paths of label maps, relative to `root`; empty where there is none.
        sizes: [N, 2] int32 height and width in pixels, upright.
        first: [N + 1] int64; image i has the objects first[i] … first[i + 1] − 1.
        boxes: [G, 4] float32 pixels.
        labels: [G] int32.
        difficult: [G] bool.
        crowd: [G] bool.
        areas: [G] float64 square pixels as the annotation states them (COCO's `area`); NaN where it states none.
        segments: G masks as JSON (COCO polygons or RLE), empty where there is none.
        members: rows of the images in each split, [n] int64.
        facts: what else the reader wants told: `note` (a sentence), `clipped` (boxes cut by up to 1 px), `maps` (how
            label maps say the classes, as of `semantic.Coding`), `category_ids` (of the classes, where they have any).
    """

    classes: tuple[str, ...]
    names: Strings
    files: Strings
    maps: Strings
    sizes: np.ndarray
    first: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    segments: Strings
    members: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, i: int) -> str:
        """Name of image i."""
        return self.names[i].decode("utf-8", "surrogateescape")

    def file(self, i: int) -> str:
        """Path of image i, relative to the data set's root."""
        return self.files[i].decode("utf-8", "surrogateescape")

    def map(self, i: int) -> str:
        """Path of image i's label map, relative to the data set's root; empty where there is none."""
        return self.maps[i].decode("utf-8", "surrogateescape")

    def objects(self, i: int) -> slice:
        """Which rows of the object columns belong to image i."""
        return slice(int(self.first[i]), int(self.first[i + 1]))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the cached columns itself instead of being sent a copy of them.
        if self.folder is not None and (self.folder / "facts.json").exists():
            return load, (self.folder,)
        return Index, tuple(getattr(self, name) for name in Index.__dataclass_fields__ if name != "folder")


_STRINGS = ("names", "files", "maps", "segments")
_ARRAYS = ("sizes", "first", "boxes", "labels", "difficult", "crowd", "areas")


def save(index: Index, folder: Path) -> None:
    """Writes the columns of `index` into an existing empty folder, one .npy file each.

    Raises:
        OSError: the folder cannot be written to.
    """
    columns = {name: getattr(index, name) for name in _ARRAYS}
    for name in _STRINGS:
        strings = getattr(index, name)
        columns |= {f"{name}.blob": strings.blob, f"{name}.offsets": strings.offsets}
    columns |= {f"split{i}": rows for i, rows in enumerate(index.members.values())}
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    facts = {"classes": index.classes, "splits": list(index.members), "facts": index.facts}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def load(folder: Path) -> Index:
    """Maps the columns that `save` wrote into memory.

    Raises:
        OSError, ValueError, KeyError: the folder does not hold a sound index.
    """
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))

    def column(name: str) -> np.ndarray:
        """One column [N or G, ...], mapped unless it is empty, which cannot be."""
        path = folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r")
        except ValueError:
            return np.load(path)

    columns: dict[str, Any] = {name: column(name) for name in _ARRAYS}
    columns |= {name: Strings(column(f"{name}.blob"), column(f"{name}.offsets")) for name in _STRINGS}
    members = {split: column(f"split{i}") for i, split in enumerate(facts["splits"])}
    index = Index(classes=tuple(facts["classes"]), members=members, facts=facts["facts"], folder=folder, **columns)
    _require_sound(index)
    return index


def _require_sound(index: Index) -> None:
    """Raises ValueError where the columns do not fit each other, as after a damaged cache."""
    images, objects = len(index), len(index.boxes)
    sound = (
        index.sizes.shape == (images, 2)
        and index.boxes.shape == (objects, 4)
        and all(getattr(index, name).shape == (objects,) for name in ("labels", "difficult", "crowd", "areas"))
        and (objects == 0 or (index.labels.min() >= 0 and index.labels.max() < len(index.classes)))
        and all(len(rows) == 0 or (rows.min() >= 0 and rows.max() < images) for rows in index.members.values())
        and _is_offsets(index.first, images, objects)
        and all(_is_offsets(s.offsets, n, len(s.blob)) for s, n in _strings_of(index, images, objects))
    )
    if not sound:
        raise ValueError("the columns of the index do not fit each other")


def _strings_of(index: Index, images: int, objects: int) -> list[tuple[Strings, int]]:
    """The string columns with the length each must have."""
    return [(index.names, images), (index.files, images), (index.maps, images), (index.segments, objects)]


def _is_offsets(offsets: np.ndarray, count: int, end: int) -> bool:
    """Whether `offsets` [count + 1] runs from 0 to `end` without stepping back."""
    return (
        offsets.shape == (count + 1,) and offsets[0] == 0 and offsets[-1] == end and bool((np.diff(offsets) >= 0).all())
    )


_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps would make one each time


class IndexBuilder:
    """Collects images and their objects one by one, then makes the columns."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = list(classes)
        self.names: list[bytes] = []
        self.files: list[bytes] = []
        self.maps: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.counts: list[int] = []
        self.boxes: list[Sequence[float]] = []
        self.labels: list[int] = []
        self.difficult: list[bool] = []
        self.crowd: list[bool] = []
        self.areas: list[float] = []
        self.segments: list[bytes] = []
        self.members: dict[str, list[int]] = {}
        # Where each image's objects stand, and what each object is called there: for messages.
        self.sources: list[str] = []
        self.marks: list[str | int] = []

    def image(self, name: str, file: str, size: tuple[int, int], source: str, *, map: str = "") -> int:
        """Begins the next image and returns its row; the objects that follow are its own."""
        self.names.append(name.encode("utf-8", "surrogateescape"))
        self.files.append(file.encode("utf-8", "surrogateescape"))
        self.maps.append(map.encode("utf-8", "surrogateescape"))
        self.sizes.append(size)
        self.counts.append(0)
        self.sources.append(source)
        return len(self.names) - 1

    def object(
        self,
        box: Sequence[float],
        label: int,
        mark: str | int,
        *,
        difficult: bool = False,
        crowd: bool = False,
        segment: Any = None,
        area: Any = None,
    ) -> None:
        """Adds an object to the image begun last; `mark` says which one it is in its annotation file.

        `area` is what the file has there; what is no finite number of at least 0 counts as not stated.
        """
        self.boxes.append(box)
        self.labels.append(label)
        self.difficult.append(difficult)
        self.crowd.append(crowd)
        self.areas.append(_area(area))
        self.segments.append(_encode(segment).encode() if segment else b"")
        self.marks.append(mark)
        self.counts[-1] += 1

    def build(self, facts: dict[str, Any] | None = None) -> Index:
        """The columns of all that was added."""
        first = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=first[1:])
        # Through float64, so that a value beyond float32 becomes infinite and is reported, never wrapped.
        with np.errstate(over="ignore"):
            boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4).astype(np.float32)
        return Index(
            classes=tuple(self.classes),
            names=Strings.of(self.names),
            files=Strings.of(self.files),
            maps=Strings.of(self.maps),
            sizes=np.asarray(self.sizes, np.int32).reshape(-1, 2),
            first=first,
            boxes=boxes,
            labels=np.asarray(self.labels, np.int32),
            difficult=np.asarray(self.difficult, bool),
            crowd=np.asarray(self.crowd, bool),
            areas=np.asarray(self.areas, np.float64),
            segments=Strings.of(self.segments),
            members={split: np.asarray(rows, np.int64) for split, rows in self.members.items()},
            facts=dict(facts or {}),
        )


def _area(value: Any) -> float:
    """An annotation's area as a number, NaN where it is none."""
    try:
        area = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
    return area if 0 <= area < float("inf") else float("nan")
