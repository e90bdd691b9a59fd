"""PASCAL VOC folders: one XML per image, lists of image names as splits (Everingham et al. 2010).

Pixels are counted from 1 and both corners belong to the box; here boxes start at 0 and end exclusive, so xmin and ymin
lose 1 and xmax and ymax stay. `SegmentationObject` holds masks: the value k marks the k-th object of the XML, 255 is
void. Beyond the devkit's own elements, `<iscrowd>`, `<area>` and `<segmentation>` (COCO's, masks as JSON) and a
`classes.txt` beside the folders are understood; `rcnn data convert` writes them. H W are height and width in pixels.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from rcnn import rle
from rcnn.data.folders import Folders
from rcnn.data.images import image_size, is_image
from rcnn.data.index import Index, IndexBuilder
from rcnn.data.problems import Problem, check_boxes
from rcnn.data.segments import require_segment
from rcnn.data.semantic import voc_coding
from rcnn.errors import UserError, nearest

FORMAT = "VOC"
OBJECTS, VOID = "SegmentationObject", 255
MAPS, SEGMENTED = "SegmentationClass", Path("ImageSets") / "Segmentation"

# A line of a class's own list, as in dog_train.txt: the image, and whether it shows the class.
_PRESENCE = re.compile(r"\S\s+(-1|0|1)$")


def recognise(root: Path) -> bool:
    """Whether a folder looks like a VOC root."""
    return (root / "Annotations").is_dir()


def files(root: Path) -> list[str]:
    """Paths of everything that the index depends on."""
    found = [str(root / "classes.txt"), str(root / "JPEGImages")]
    found += sorted(folder for folder, _, _ in os.walk(root / MAPS))
    for folder in (root / "ImageSets" / "Main", root / SEGMENTED, root / OBJECTS, root / "Annotations"):
        found.append(str(folder))
        found += sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return found


def read(root: Path) -> tuple[Index, list[Problem]]:
    """Reads a VOC root: every annotation that some list names, or all where there are no lists.

    Raises:
        UserError: the lists or `classes.txt` cannot be read.
    """
    problems: list[Problem] = []
    lists = _lists(root, problems)
    fixed = _class_file(root)
    builder = IndexBuilder(fixed or ())
    images, listing = _Images(root / "JPEGImages"), Folders()
    rows: dict[str, int] = {}
    for name in dict.fromkeys(name for names in lists.values() for name in names):
        try:
            rows[name] = _read_annotation(root, name, images, builder, problems, bool(fixed))
            if listing.has(root / MAPS / f"{name}.png"):
                builder.maps[rows[name]] = f"{MAPS}/{name}.png".encode("utf-8", "surrogateescape")
        except _Faulty as fault:
            problems.append(fault.problem)
    builder.members = {split: [rows[name] for name in names if name in rows] for split, names in lists.items()}
    if not fixed:
        _sort_classes(builder)
    facts = {}
    if any(builder.maps):
        facts["maps"] = voc_coding(builder.classes, bool(fixed)).fact
        problems += _missing_maps(root, listing)
    index = builder.build(facts)
    return index, problems + check_boxes(builder, index)


class _Faulty(Exception):
    """An annotation file that cannot be used at all."""

    def __init__(self, file: Path, what: str, fix: str) -> None:
        super().__init__(what)
        self.problem = Problem(f"'{file}'", what, fix)


class _Refusing(ElementTree.TreeBuilder):
    """Builds a tree, but stops at a document type: the only place where XML can declare entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called by the parser at `<!DOCTYPE`."""
        raise ElementTree.ParseError("document type")


def parse(path: Path) -> ElementTree.Element:
    """The root element of an XML file that has no DTD and no entities of its own.

    Raises:
        UserError: the file is missing, broken, or declares a document type.
    """
    try:
        return _parse(path)
    except _Faulty as fault:
        raise UserError(str(fault.problem)) from fault


def _parse(path: Path) -> ElementTree.Element:
    """As `parse`, with the problem still in its parts."""
    data = b""
    try:
        data = path.read_bytes()
        parser = ElementTree.XMLParser(target=_Refusing())
        parser.feed(data)
        return parser.close()
    except FileNotFoundError:
        raise _Faulty(path, "the file is missing though a list names it", "add it or take its name out") from None
    except OSError as error:
        raise _Faulty(path, f"the file cannot be read ({error.strerror})", "change its rights") from error
    except ElementTree.ParseError as error:
        if str(error) == "document type":
            what = "the file declares a document type (DTD), which could pull in other files"
            raise _Faulty(path, what, "remove the <!DOCTYPE …> part") from None
        what = "the file is empty" if not data.strip() else f"the XML is broken ({error})"
        raise _Faulty(path, what, "write it again") from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise _Faulty(path, f"the XML cannot be decoded ({error})", "save it as UTF-8") from error


def _lists(root: Path, problems: list[Problem]) -> dict[str, list[str]]:
    """Image names of each list in ImageSets/Main; lists of one class's presence (`dog_train.txt`) are passed over."""
    folder = root / "ImageSets" / "Main"
    lists: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.txt")):
        names = [line.strip() for line in read_lines(path) if line.strip()]
        if names and "_" in path.stem and all(_PRESENCE.search(name) for name in names):
            continue
        for name, count in Counter(names).items():
            if count > 1:
                problems.append(
                    Problem(f"'{path}'", f"image '{name}' is listed {count} times", "keep one of the lines")
                )
        lists[path.stem] = list(dict.fromkeys(names))
    if not lists:
        base = root / "Annotations"
        lists["all"] = sorted(path.relative_to(base).with_suffix("").as_posix() for path in base.rglob("*.xml"))
    return lists


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file.

    Raises:
        UserError: it cannot be read or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text (byte {error.start})") from error


def _class_file(root: Path) -> list[str]:
    """The classes that `classes.txt` fixes, in its order; none where there is no such file."""
    path = root / "classes.txt"
    names = [line.strip() for line in read_lines(path) if line.strip()] if path.exists() else []
    if len(set(names)) < len(names):
        raise UserError(f"'{path}' names a class twice: {next(n for n in names if names.count(n) > 1)}")
    return names


def _missing_maps(root: Path, listing: Folders) -> list[Problem]:
    """Images that a list of ImageSets/Segmentation names though they have no label map."""
    missing = [
        (path, name)
        for path in sorted((root / SEGMENTED).glob("*.txt"))
        for name in filter(None, map(str.strip, read_lines(path)))
        if not listing.has(root / MAPS / f"{name}.png")
    ]
    return [
        Problem(f"'{path}'", f"the label map '{root / MAPS / name}.png' is missing", "add it or take its name out")
        for path, name in missing
    ]


class _Images:
    """The images of a root by name without suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listing = Folders()
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str, declared: str) -> str | None:
        """The file for an image name, relative to the folder; `declared` is what the XML says it is called."""
        below = Path(name).parent
        folder = self.folder / below
        if folder not in self._stems:
            stems = self._stems[folder] = {}
            for file in sorted(self._listing.names(folder)):
                if is_image(file):
                    stems.setdefault(os.path.splitext(file)[0], []).append(file)
        known = self._stems[folder].get(Path(name).name, [])
        if known:
            return (below / (declared if declared in known else known[0])).as_posix()
        plain = os.path.basename(declared)
        return (below / plain).as_posix() if plain and plain in self._listing.names(folder) else None


def _read_annotation(
    root: Path, name: str, images: _Images, builder: IndexBuilder, problems: list[Problem], fixed: bool
) -> int:
    """Adds one annotation file to the index and returns its image's row."""
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    file = images.find(name, (tree.findtext("filename") or "").strip())
    if file is None:
        raise _Faulty(path, f"its image '{name}' is missing in '{images.folder}'", "add the image or remove the file")
    size = _size(tree)
    if size is None:
        try:
            size = image_size(images.folder / file)
        except UserError as error:
            raise _Faulty(path, f"it gives no size and {error}", "add <size> or the image") from error
    elements = tree.findall("object")
    masks = _object_masks(root / OBJECTS / f"{name}.png", size, len(elements))
    row = builder.image(file, f"JPEGImages/{file}", size, f"'{path}'")
    for number, element in enumerate(elements, 1):
        try:
            _read_object(element, number, builder, fixed, masks)
        except ValueError as error:
            problems.append(Problem(f"'{path}', object {number}", str(error), "correct it or take it out"))
    return row


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width that an annotation states, where it states positive ones."""
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if 0 < height < 1 << 31 and 0 < width < 1 << 31 else None


def _object_masks(path: Path, size: tuple[int, int], objects: int) -> np.ndarray | None:
    """The numbers of the objects that pixels belong to, uint8 [H, W]; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over in broken bytes
        raise _Faulty(path, f"the masks cannot be read ({error})", "write the file again or take it out") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise _Faulty(path, "the masks are no picture of 8-bit numbers", "save it as a palette or grey PNG")
    if values.shape != size:
        found = f"{values.shape[1]}×{values.shape[0]} pixels where the image has {size[1]}×{size[0]}"
        raise _Faulty(path, f"the masks are {found}", "make them as large as the image")
    numbers = np.unique(values)
    beyond = numbers[(numbers > objects) & (numbers != VOID)]
    if len(beyond):
        what = f"value {beyond[0]} stands for no object: the annotation has {objects}"
        raise _Faulty(path, what, "number the masks as the objects of the XML, from 1; 255 is void")
    return values


def _read_object(
    element: ElementTree.Element, number: int, builder: IndexBuilder, fixed: bool, masks: np.ndarray | None
) -> None:
    """Adds one object, with its mask out of `masks` [H, W]; ValueError says what is wrong with it."""
    values = {child.tag: child for child in element}
    label = (element.findtext("name") or "").strip()
    if not label:
        raise ValueError("it has no <name>")
    if label not in builder.classes:
        if fixed:
            raise ValueError(f"class '{label}' is not in classes.txt{nearest(label, builder.classes)}")
        builder.classes.append(label)
    corners = values.get("bndbox")
    if corners is None:
        raise ValueError("it has no <bndbox>")
    xmin, ymin, xmax, ymax = (_number(corners, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    segment = element.findtext("segmentation")
    segment = require_segment(_json(segment), builder.sizes[-1]) if segment else None
    if segment is None and masks is not None and (masks == number).any():
        segment = rle.compressed(rle.encode(masks == number), builder.sizes[-1])
    builder.object(
        (xmin - 1, ymin - 1, xmax, ymax),
        builder.classes.index(label),
        f"object {number}",
        difficult=_flag(element, "difficult"),
        crowd=_flag(element, "iscrowd"),
        segment=segment,
        area=element.findtext("area"),
    )


def _number(corners: ElementTree.Element, tag: str) -> float:
    """One corner of a box as a number."""
    text = (corners.findtext(tag) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{tag}> is '{text}' where a number was expected") from None


def _flag(element: ElementTree.Element, tag: str) -> bool:
    """Whether a 0/1 element is set; a missing one is not."""
    text = (element.findtext(tag) or "0").strip().lower()
    if text not in ("0", "1", "true", "false", "unspecified", ""):
        raise ValueError(f"<{tag}> is '{text}' where 0 or 1 was expected")
    return text in ("1", "true")


def _json(text: str) -> Any:
    """A mask written as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"<segmentation> is not JSON ({error})") from error


def _sort_classes(builder: IndexBuilder) -> None:
    """Puts classes found in the annotations into alphabetical order, which does not hang on the order of files."""
    order = sorted(builder.classes)
    place = {name: i for i, name in enumerate(order)}
    builder.labels = [place[builder.classes[label]] for label in builder.labels]
    builder.classes = order
