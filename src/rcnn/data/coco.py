"""COCO's JSON: images, annotations and categories by ids of any kind (Lin et al. 2014).

A box is x, y, width, height from 0, which ends exclusive as ours does. `iscrowd` marks crowd regions; `ignore` (or
`difficult`) marks difficult objects. Categories are taken in the order of their ids. Masks, polygons or RLE, compressed
or not, and a stated `area` are carried as they stand.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from rcnn.data.folders import Folders, relative, unrecognised
from rcnn.data.images import image_size
from rcnn.data.index import Index, IndexBuilder
from rcnn.data.problems import Problem, check_boxes
from rcnn.data.segments import require_segment
from rcnn.errors import UserError

FORMAT = "COCO"

# Files that stand beside COCO's instances and hold something else.
_OTHER = re.compile(r"^(captions|panoptic|stuff|person_keypoints|image_info)_")
_SPLIT = re.compile(r"(?<![a-z])(trainval|train|validation|valid|val|test)(?![a-z])")


def recognise(path: Path) -> bool:
    """Whether a path is a COCO JSON or a folder that has some where they are usually kept."""
    return (path.is_file() and path.suffix.lower() == ".json") or bool(path.is_dir() and _jsons(path))


def files(root: Path) -> list[str]:
    """Paths of everything that the index depends on."""
    folders = {str(path.parent) for path in _jsons(root)}
    return sorted({str(path) for path in _jsons(root)} | folders)


def _jsons(root: Path) -> list[Path]:
    """JSON files that may be annotations: the file itself, in annotations/, beside the images, or in split folders."""
    if root.is_file():
        return [root]
    for pattern in ("annotations/*.json", "*.json", "*/*.json"):
        if found := sorted(path for path in root.glob(pattern) if not path.name.startswith(".")):
            return found
    return []


def split_of(path: Path) -> str:
    """The split that a JSON's name (else its folder's) tells: train, val, test, trainval or "all"."""
    for word in (path.stem.lower(), path.parent.name.lower()):
        if found := _SPLIT.findall(word):
            return {"valid": "val", "validation": "val"}.get(found[-1], found[-1])
    return "all"


def read(root: Path) -> tuple[Index, list[Problem]]:
    """Reads all splits of a COCO folder, or the one JSON given.

    Raises:
        UserError: a file cannot be parsed, is no COCO detection file, or the splits disagree about the categories.
    """
    groups: dict[str, list[Path]] = {}
    candidates = _jsons(root)
    for path in [path for path in candidates if not _OTHER.match(path.name)] or candidates:
        groups.setdefault(split_of(path), []).append(path)
    notes: list[str] = []
    problems: list[Problem] = []
    builder: IndexBuilder | None = None
    origin: Path | None = None
    ids: list[int] = []
    base = root if root.is_dir() else root.parent
    for split, paths in groups.items():
        path, content = _choose(split, paths, notes)
        if content is None:
            continue
        categories = _categories(path, content)
        names = [name for _, name in sorted(categories.items())]
        if builder is None:
            builder, origin, ids = IndexBuilder(names), path, sorted(categories)
        elif names != builder.classes:
            odd = sorted(set(names) ^ set(builder.classes)) or names
            raise UserError(f"'{path}' and '{origin}' have different categories ({odd[0]!r}); splits need the same")
        labels = {key: i for i, (key, _) in enumerate(sorted(categories.items()))}
        _Reader(path, split, base, builder, labels, problems).read(content)
    if builder is None:
        lists = "no JSON there has COCO's lists 'images', 'annotations' with 'bbox', and 'categories'"
        raise UserError(f"{unrecognised(root)}; {lists}")
    index = builder.build({"note": " ".join(notes), "category_ids": ids})
    return index, problems + check_boxes(builder, index)


def published_ids(root: Path, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids that the JSONs of a data set give its images and its categories, by their names.

    Where splits give one image different ids, those of `split` count. What cannot be read has none.
    """
    images: dict[str, Any] = {}
    categories: dict[str, Any] = {}
    for path in sorted(_jsons(root), key=lambda path: split_of(path) == split):
        content = None if _OTHER.match(path.name) else load_json(path)
        if content is not None and _is_detection(content):
            categories |= {name: key for key, name in _categories(path, content).items()}
            entries = [entry for entry in content["images"] if isinstance(entry, dict)]
            images |= {str(entry.get("file_name")): entry.get("id") for entry in entries if _is_key(entry.get("id"))}
    return images, categories


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read or is broken; the sentence says where.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
    except RecursionError:
        raise UserError(f"'{path}' nests too deeply to be COCO annotations") from None
    except ValueError as error:  # broken JSON, or bytes that are no text
        raise UserError(f"'{path}' is not sound JSON: {error}") from error


def _is_detection(content: Any) -> bool:
    """Whether parsed JSON has the three lists of a detection file."""
    if not isinstance(content, dict):
        return False
    if not all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        return False
    objects = content["annotations"]
    return not objects or any(isinstance(entry, dict) and "bbox" in entry for entry in objects)


def _choose(split: str, paths: list[Path], notes: list[str]) -> tuple[Path, dict[str, Any] | None]:
    """The file of a split: where several fit, the one with most images, then most objects; the note says so."""
    if len(paths) == 1 and split != "all":
        content = load_json(paths[0])
        if not _is_detection(content):
            missing = [key for key in ("images", "annotations", "categories") if not _has_list(content, key)]
            lack = f"lacks COCO's list '{missing[0]}'" if missing else "has annotations without 'bbox'"
            raise UserError(f"'{paths[0]}' {lack}, so it is no COCO detection file")
        return paths[0], content
    contents = [(path, load_json(path)) for path in paths]
    fitting = [(path, content) for path, content in contents if _is_detection(content)]
    if not fitting:
        return paths[0], None
    best = max(fitting, key=lambda pair: (len(pair[1]["images"]), len(pair[1]["annotations"])))
    if len(fitting) > 1:
        others = ", ".join(f"'{path.name}'" for path, _ in fitting if path != best[0])
        notes.append(f"'{best[0].name}' is used for split '{split}'; to use {others}, give that file as the data.")
    return best


def _has_list(content: Any, key: str) -> bool:
    """Whether parsed JSON is an object that holds a list of this name."""
    return isinstance(content, dict) and isinstance(content.get(key), list)


def _categories(path: Path, content: dict[str, Any]) -> dict[Any, str]:
    """Category names by id."""
    categories: dict[Any, str] = {}
    for number, entry in enumerate(content["categories"], 1):
        key = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(key, int) or not isinstance(name, str) or not name.strip():
            raise UserError(f"'{path}': category {number} needs an integer 'id' and a 'name'")
        name = name.strip()
        if key in categories:
            raise UserError(f"'{path}': category id {key} is given twice ('{categories[key]}' and '{name}')")
        if name in categories.values():
            raise UserError(f"'{path}': two categories are named '{name}'; join them or rename one")
        categories[key] = name
    return categories


class _Reader:
    """Adds one JSON's images and objects to the index."""

    def __init__(
        self,
        path: Path,
        split: str,
        root: Path,
        builder: IndexBuilder,
        labels: dict[Any, int],
        problems: list[Problem],
    ) -> None:
        self.path, self.root, self.builder, self.labels, self.problems = path, root, builder, labels, problems
        self.rows = builder.members.setdefault(split, [])
        self.images = _Images(path, split, root)

    def read(self, content: dict[str, Any]) -> None:
        """Takes the images in their order, each with its objects."""
        images = self._images(content["images"])
        objects: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
        seen: set[Any] = set()
        for number, entry in enumerate(content["annotations"], 1):
            if not isinstance(entry, dict):
                self._fault(f"annotation {number} is not an object", "write it as {…}")
                continue
            mark, owner = entry.get("id", f"number {number}"), entry.get("image_id")
            if not _is_key(mark) or mark in seen:
                self._fault(f"annotation id {mark!r} is given twice or is no id", "give each its own id")
            elif not _is_key(owner) or owner not in objects:
                self._fault(f"annotation {mark} belongs to unknown image id {owner!r}", "add the image or remove it")
            else:
                objects[owner].append(entry)
            if _is_key(mark):
                seen.add(mark)
        for key, entry in images.items():
            if self._begin(entry):
                for one in objects[key]:
                    self._object(one)

    def _fault(self, what: str, fix: str) -> None:
        self.problems.append(Problem(f"'{self.path}'", what, fix))

    def _images(self, entries: list[Any]) -> dict[Any, dict[str, Any]]:
        """Image entries by id; faulty ones are reported and left out."""
        images: dict[Any, dict[str, Any]] = {}
        names: set[str] = set()
        for number, entry in enumerate(entries, 1):
            key = entry.get("id") if isinstance(entry, dict) else None
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if key is None or not _is_key(key) or not isinstance(name, str) or not name.strip("/. ") or "\0" in name:
                self._fault(f"image {number} needs an 'id' and a 'file_name'", "add them")
            elif key in images:
                self._fault(f"image id {key!r} is given twice ('{images[key]['file_name']}', '{name}')", "renumber one")
            elif name in names:
                self._fault(f"image file '{name}' is listed twice", "join the two entries")
            else:
                images[key] = entry
                names.add(name)
        return images

    def _begin(self, entry: dict[str, Any]) -> bool:
        """Begins an image; false where it cannot be used."""
        name = entry["file_name"]
        found = self.images.find(name)
        if found is None:
            looked = ", ".join(f"'{folder}'" for folder in self.images.folders[:4])
            self._fault(f"image '{name}' is missing (looked in {looked}, …)", "add it or remove its entry")
            return False
        sides = [entry.get("height"), entry.get("width")]
        if all(map(_is_side, sides)):
            size = (int(sides[0]), int(sides[1]))  # type: ignore[arg-type]
        else:
            try:
                size = image_size(found)
            except UserError as error:
                self._fault(str(error), "replace it or remove its entry")
                return False
        plain = os.path.basename(name) if os.path.isabs(name) or ".." in Path(name).parts else Path(name).as_posix()
        self.rows.append(self.builder.image(plain, relative(found, self.root), size, f"'{self.path}'"))
        return True

    def _object(self, entry: dict[str, Any]) -> None:
        """Adds one object, or reports what is wrong with it."""
        mark = f"annotation {entry.get('id', '?')}"
        category, box = entry.get("category_id"), entry.get("bbox")
        if not _is_key(category) or category not in self.labels:
            known = f"known are {', '.join(map(str, list(self.labels)[:12]))}"
            self._fault(f"{mark} has unknown category id {category!r}", f"{known}; add the category or correct the id")
        elif not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
            self._fault(f"{mark} has bbox {_short(box)}", "it needs four numbers: x, y, width, height")
        else:
            try:
                segment = require_segment(entry.get("segmentation"), self.builder.sizes[-1])
            except ValueError as error:
                self._fault(f"{mark}: {error}", "correct it or take the mask out")
                return
            x, y, width, height = map(_float, box)
            self.builder.object(
                (x, y, x + width, y + height),
                self.labels[category],
                mark,
                difficult=bool(entry.get("ignore") or entry.get("difficult")),
                crowd=bool(entry.get("iscrowd")),
                segment=segment,
                area=entry.get("area"),
            )


def _is_key(value: Any) -> bool:
    """Whether a JSON value can serve as an id."""
    return isinstance(value, int | str)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_side(value: Any) -> bool:
    """Whether a JSON value can be an image's height or width."""
    return _is_number(value) and 0 < value < 1 << 31


def _float(value: float) -> float:
    """A JSON number as float; an integer beyond its range becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _short(value: Any) -> str:
    """A JSON value, cut to fit a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


class _Images:
    """Finds images by file_name under the usual folders."""

    def __init__(self, path: Path, split: str, root: Path) -> None:
        self._listing = Folders()
        bases = dict.fromkeys([root, path.parent, *([path.parent.parent] if path.parent != root else [])])
        if root == path.parent:  # a JSON given by itself: its images may stand beside its folder
            bases |= {path.parent.parent: None}
        names = ("", "images", "JPEGImages", "imgs", "data")
        folders = [base / name for base in bases for name in names]
        # Sub-folders of those, the ones named after the split first: images/val2017, train, …
        deeper = [base / name for base in folders for name in sorted(self._listing.names(base)) if "." not in name]
        deeper = [folder for folder in deeper if split != "all" and split in folder.name] or (
            [folder for folder in deeper if _SPLIT.search(folder.name.lower())] if split == "all" else []
        )
        self.folders = [folder for folder in dict.fromkeys(folders + deeper) if folder.is_dir()]
        self._last: Path | None = None

    def find(self, name: str) -> Path | None:
        """The path of an image, None where it is nowhere."""
        if os.path.isabs(name) and os.path.exists(name):
            return Path(name)
        tries = [name] if name == os.path.basename(name) else [name, os.path.basename(name)]
        for part in tries:
            for folder in [self._last, *self.folders] if self._last else self.folders:
                path = Path(os.path.normpath(folder / part.lstrip("/")))
                if self._listing.has(path):
                    self._last = folder
                    return path
        return None
