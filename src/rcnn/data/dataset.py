"""A data set as models see it: images, and the objects in them.

Any of the formats becomes one `Dataset` over one columnar index; a split is a selection of its rows, and a subset of
the classes a renumbering of its labels. Letters: N images of the split, G objects of one image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rcnn.data import cache, coco, label_maps, voc, yolo
from rcnn.data.folders import require_exists, unrecognised
from rcnn.data.images import image_size, read_image, stored_size
from rcnn.data.index import Index
from rcnn.data.problems import Problem, refuse
from rcnn.data.segments import Frame
from rcnn.data.semantic import Coding, renumbered
from rcnn.data.splits import available, choose
from rcnn.errors import UserError, nearest

DIGITS = "digits"
_FORMATS: tuple[ModuleType, ...] = (voc, label_maps, yolo, coco)


@dataclass
class Truth:
    """The objects of one image.

    Attributes:
        boxes: [G, 4] float32 pixels of the upright image.
        labels: [G] int64 in 0 … K−1.
        difficult: [G] bool, VOC's flag.
        crowd: [G] bool: a region of many objects rather than one.
        segments: one entry an object: COCO polygons (lists of x, y), a COCO RLE dictionary, or None.
        areas: [G] float64 square pixels as the annotation states them, NaN where it states none; None: none does.
        frame: in which pixels the segments and the map are; None for the image's own.
        semantic: uint8 [H, W], the class of each pixel: 0 … K−1, K for background, 255 for void; None where it was not
            asked for.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    segments: list[Any]
    areas: np.ndarray | None = None
    frame: Frame | None = None
    semantic: np.ndarray | None = None

    @property
    def ignore(self) -> np.ndarray:
        """[G] bool: objects that are neither hit nor miss."""
        return self.difficult | self.crowd

    def __len__(self) -> int:
        return len(self.boxes)


class Dataset:
    """One split of a data set; made by `open_dataset`.

    Attributes:
        data: what the user called it.
        format: "VOC", "COCO", "YOLO" or "digits".
        split: the split's name.
        splits: all splits of the data set.
        classes: class names that labels index.
        note: sentences for the user: what stands in for a missing split, which file was chosen, boxes that were cut.
        root: the folder that image paths count from.
        semantic: whether truths come with their label maps; images without one are left out then.
    """

    def __init__(
        self,
        index: Index,
        *,
        data: str,
        format: str,
        root: Path,
        split: str | None = None,
        classes: Sequence[str] | None = None,
        arrays: Sequence[np.ndarray] | None = None,
        semantic: bool = False,
        maps: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.index, self.data, self.format, self.root = index, data, format, root
        self.splits = available(index)
        self.split, self.rows, missing = choose(index, split, data)
        self.classes = index.classes if classes is None else _require_classes(classes, index.classes, data)
        self._kept = np.full(len(index.classes), -1, np.int64)
        self._kept[[index.classes.index(name) for name in self.classes]] = np.arange(len(self.classes))
        self._arrays, self._maps, self.semantic = arrays, maps, semantic
        unmapped = self._leave_unmapped() if semantic and maps is None else ""
        clipped = index.facts.get("clipped", 0)
        cut = f"Boxes cut because they passed their image's edge by up to 1 px: {clipped}." if clipped else ""
        self.note = " ".join(part for part in (missing, unmapped, index.facts.get("note", ""), cut) if part)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Dataset({self.data!r}, split={self.split!r}, images={len(self)}, classes={len(self.classes)})"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A worker process that is not forked opens images in memory anew instead of being sent them.
        if self._arrays is not None:
            return _reopen, (self.data, self.split, self.classes, self.semantic)
        return super().__reduce_ex__(protocol)  # type: ignore[return-value]

    @property
    def category_ids(self) -> tuple[int, ...] | None:
        """The id that a COCO JSON gives each of the K classes; None for data of another format."""
        ids = self.index.facts.get("category_ids")
        return None if ids is None else tuple(ids[self.index.classes.index(name)] for name in self.classes)

    def name(self, i: int) -> str:
        """Name of image i, relative to the folder of images."""
        return self.index.name(self.rows[i])

    def path(self, i: int) -> Path | None:
        """File of image i; None for images that live in memory."""
        return None if self._arrays is not None else self.root / self.index.file(self.rows[i])

    @property
    def sizes(self) -> np.ndarray:
        """[N, 2] int32 height and width of all images in pixels, upright."""
        return self.index.sizes[self.rows]

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i in pixels, upright."""
        height, width = self.index.sizes[self.rows[i]].tolist()
        return height, width

    def image(self, i: int) -> np.ndarray:
        """Pixels of image i: uint8 RGB [H, W, 3], upright.

        Raises:
            UserError: the file is missing or damaged, or its size is not the annotated one.
        """
        if self._arrays is not None:
            return self._arrays[self.rows[i]].copy()
        path = self.root / self.index.file(self.rows[i])
        pixels = read_image(path)
        if pixels.shape[:2] != self.size(i):
            raise UserError(str(size_problem(path, self.size(i))))
        return pixels

    def truth(self, i: int) -> Truth:
        """Objects of image i, those of the chosen classes only."""
        index, of = self.index, self.index.objects(self.rows[i])
        labels = self._kept[index.labels[of]]
        kept = labels >= 0
        segments = [index.segments[g] for g in (np.flatnonzero(kept) + of.start).tolist()]
        return Truth(
            boxes=np.array(index.boxes[of])[kept],
            labels=labels[kept],
            difficult=np.array(index.difficult[of])[kept],
            crowd=np.array(index.crowd[of])[kept],
            segments=[json.loads(text) if text else None for text in segments],
            areas=np.array(index.areas[of])[kept],
            semantic=self.label_map(i) if self.semantic else None,
        )

    def label_map(self, i: int) -> np.ndarray:
        """The class of each pixel of image i, which has a map: uint8 [H, W] as of `Truth.semantic`.

        Raises:
            UserError: the map is missing or damaged, is not of the image's size, or has a value without a class.
        """
        if self._maps is not None:
            return renumbered(self._maps[self.rows[i]], self._kept)
        labels = read_labels(self.index, self.root, int(self.rows[i]))
        return renumbered(labels, self._kept)

    def _leave_unmapped(self) -> str:
        """Leaves out the images without a label map, and says so."""
        lengths = np.diff(self.index.maps.offsets)[self.rows]
        if not lengths.any():
            raise UserError(
                f"data '{self.data}' has no label maps for its split '{self.split}'; expected digits, SegmentationClass"
                " in a VOC root, or a folder with images, masks and classes.txt"
            )
        self.rows = self.rows[lengths > 0]
        left = int((lengths == 0).sum())
        return f"Images of {self.split} left out because they have no label map: {left} of {len(lengths)}." * bool(left)

    @property
    def masked(self) -> np.ndarray:
        """[M] bool, which of the split's objects, in the order of `columns`, come with a mask."""
        return (np.diff(self.index.segments.offsets) > 0)[self._objects()[0]]

    def columns(self) -> dict[str, np.ndarray]:
        """All objects of the split at once, without segments: `image` [M] (0 … N−1), `boxes` [M, 4], `labels`,
        `difficult` and `crowd` [M]."""
        index = self.index
        of, image = self._objects()
        return {
            "image": image,
            "boxes": index.boxes[of],
            "labels": self._kept[index.labels[of]],
            "difficult": index.difficult[of],
            "crowd": index.crowd[of],
        }

    def _objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the index's object columns [M] of the chosen classes, and the image (0 … N−1) of each."""
        index = self.index
        counts = (index.first[1:] - index.first[:-1])[self.rows]
        starts = np.repeat(index.first[self.rows] - (np.cumsum(counts) - counts), counts)
        of = starts + np.arange(counts.sum())
        chosen = self._kept[index.labels[of]] >= 0
        return of[chosen], np.repeat(np.arange(len(self)), counts)[chosen]


def open_dataset(
    data: str | Path, split: str | None = None, *, classes: Sequence[str] | None = None, semantic: bool = False
) -> Dataset:
    """Opens `digits`, a VOC root, a COCO folder or JSON, a YOLO `data.yaml` or label maps, whichever it is.

    Annotations are parsed and checked once; unchanged ones come from the cache after that. Without a `split` the data
    set holds all images. A missing train or val split is made up by convention, and `note` says how. With `semantic`,
    truths come with label maps, and images without one are left out.

    Raises:
        UserError: nothing known is found, an annotation is unsound, or there is no such split or class.
    """
    if str(data) == DIGITS and not Path(data).exists():
        from rcnn.data.embedded import digits_maps, read_digits

        index, arrays = read_digits(split)
        inside = {"arrays": arrays, "maps": digits_maps(split) if semantic else None}
        asked = {"split": split, "classes": classes, "semantic": semantic}
        return Dataset(index, data=DIGITS, format=DIGITS, root=Path(), **asked, **inside)
    root = Path(data)
    reader = recognise(root)
    state = cache.fingerprint(root, [reader.FORMAT, *reader.files(root)])
    index = cache.cached(root, state, lambda: _read(reader, root))
    asked = {"split": split, "classes": classes, "semantic": semantic}
    return Dataset(index, data=str(data), format=reader.FORMAT, root=folder_of(root), **asked)


def _reopen(data: str, split: str, classes: tuple[str, ...], semantic: bool) -> Dataset:
    """`open_dataset` for pickle, which passes arguments by place."""
    return open_dataset(data, split, classes=classes, semantic=semantic)


def recognise(root: Path) -> ModuleType:
    """The reader module for a path.

    Raises:
        UserError: the path does not exist, or is none of the formats; the sentence says what was looked for.
    """
    require_exists(root)
    for reader in _FORMATS:
        if reader.recognise(root):
            return reader
    if root.is_dir() and not any(root.iterdir()):
        raise UserError(f"data '{root}' is an empty folder")
    raise UserError(unrecognised(root))


def folder_of(root: Path) -> Path:
    """The folder that image paths count from."""
    return root if root.is_dir() else root.parent


def read_labels(index: Index, root: Path, row: int) -> np.ndarray:
    """The label map of an image of the index as int16 [H, W]: its classes, −1 for background, −2 for void.

    Raises:
        UserError: as of `Coding.labels`, or the map's size is not the image's.
    """
    path = root / index.map(row)
    labels = Coding.of_fact(index.facts["maps"]).labels(path)
    (height, width), (rows, columns) = index.sizes[row].tolist(), labels.shape
    if (rows, columns) != (height, width):
        raise UserError(
            f"label map '{path}' is {columns}×{rows} pixels where its image '{index.name(row)}' is {width}×{height};"
            " make it as large as the image"
        )
    return labels


def size_problem(path: Path, annotated: tuple[int, int]) -> Problem:
    """What to say of an image whose upright size is not the annotated (height, width)."""
    stored, turned = stored_size(path)
    height, width = image_size(path)
    what = f"the image is {width}×{height} pixels but annotated as {annotated[1]}×{annotated[0]}"
    if turned and stored == annotated:
        fix = "its EXIF orientation turns it on its side: annotate it upright, or remove the orientation tag"
    else:
        fix = "use the image that was annotated, or correct the size and boxes"
    return Problem(f"'{path}'", what, fix)


def _read(reader: ModuleType, root: Path) -> Index:
    """Reads a data set and refuses one with problems."""
    index, problems = reader.read(root)
    refuse(problems)
    return index


def _require_classes(chosen: Sequence[str], known: tuple[str, ...], data: str) -> tuple[str, ...]:
    """The chosen classes, each known and named once."""
    for name in chosen:
        if name not in known:
            raise UserError(f"data '{data}' has no class '{name}'{nearest(name, known)}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"class '{next(n for n in chosen if list(chosen).count(n) > 1)}' is chosen twice")
    if not chosen:
        raise UserError("no classes were chosen")
    return tuple(chosen)
