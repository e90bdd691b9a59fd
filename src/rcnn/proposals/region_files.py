"""Regions that somebody else published, or that `rcnn propose` wrote: MATLAB and numpy files, by image name.

Three conventions are about. R-CNN's MATLAB files count pixels from 1, include both corners and put y first; Fast
R-CNN's demo files count from 0, include both corners and put x first; ours are continuous. The first is told by its
layout (a cell of boxes beside a cell of image names), the other two by their numbers: whole ones are pixels, floating
ones continuous. Letters: N regions of one image.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.dataset import Dataset
from rcnn.errors import UserError, nearest
from rcnn.files import telling, writing

SUFFIXES = (".mat", ".npz", ".npy", ".json")
# What files of one image have after its name, as Fast R-CNN's demo has.
ENDING = "_boxes"


class FileRegions:
    """Regions of a data set's images from a file, or from a folder of one file an image.

    Called with a data set and an index it gives float32 [N, 4] in original pixels, best first, as the file has them.

    Args:
        path: `.mat` with cells `boxes` and `images` (R-CNN's), `.npz` of one array [N, 4] an image, the `.json` of
            `rcnn propose`, or a folder of `.npy` or `.mat` files named like the images, with or without "_boxes".
        datasets: whose images must all be in there.
        count: the most regions of an image; None for all.

    Raises:
        UserError: the file is missing, damaged or none of these, or lacks an image.
    """

    def __init__(self, path: str | Path, *datasets: Dataset, count: int | None = None) -> None:
        self.path, self.count = Path(path), count
        with telling(self.path):
            self._found = _folder(self.path) if self.path.is_dir() else _file(self.path)
        for dataset in datasets:
            for index in range(len(dataset)):
                self._boxes(dataset, index)

    def __call__(self, dataset: Dataset, index: int) -> np.ndarray:
        """Regions [N, 4] of image `index`."""
        return self._boxes(dataset, index)[: self.count]

    def _boxes(self, dataset: Dataset, index: int) -> np.ndarray:
        """All regions of an image, checked."""
        name = _stem(dataset.name(index))
        if name not in self._found:
            raise UserError(f"regions '{self.path}' have none for image '{name}'{nearest(name, self._found)}")
        boxes = self._found[name]
        if isinstance(boxes, Path):
            boxes = self._found[name] = _one(boxes)
        height, width = dataset.size(index)
        if len(boxes) and (boxes[:, 2:].max(0) > (width + 1, height + 1)).any():
            raise UserError(
                f"regions '{self.path}' of image '{name}' reach beyond its {width}×{height} pixels; "
                "are they of other images, or is their order of x and y another?"
            )
        return boxes


def write_regions(path: str | Path, names: list[str], boxes: list[np.ndarray]) -> None:
    """Writes regions [N, 4] of each named image into one `.npz` that `FileRegions` reads."""
    # Not by numpy's own `savez`, which takes names for its arguments.
    with writing(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, found in zip(names, boxes, strict=True):
            with archive.open(f"{_stem(name)}.npy", "w") as file:
                np.lib.format.write_array(file, found)


def _stem(name: str) -> str:
    """What names an image whatever its format: the path without its suffix."""
    return str(Path(name).with_suffix("")).replace("\\", "/")


def _folder(path: Path) -> dict[str, Any]:
    """The files of a folder by the image that they belong to; read when they are asked for."""
    files = sorted(file for file in path.rglob("*") if file.suffix in (".mat", ".npy"))
    if not files:
        raise UserError(f"folder '{path}' holds no regions: expected .npy or .mat files named like the images")
    return {_stem(str(file.relative_to(path))).removesuffix(ENDING): file for file in files}


def _file(path: Path) -> dict[str, Any]:
    """The regions of a file of many images by their names."""
    if path.suffix == ".npz":
        return {_stem(name): _floats(boxes, path) for name, boxes in _loaded(path).items()}
    if path.suffix == ".json":
        entries = _guarded(path, lambda: json.loads(path.read_text(encoding="utf-8")))
        boxes = _guarded(path, lambda: {_stem(entry["image"]): entry["boxes"] for entry in entries})
        return {name: _floats(np.asarray(found, np.float32).reshape(-1, 4), path) for name, found in boxes.items()}
    if path.suffix != ".mat":
        if path.exists():
            return {_stem(path.name).removesuffix(ENDING): path}
        raise UserError(f"regions '{path}' do not exist; expected a folder or one of {', '.join(SUFFIXES)}")
    content = _matlab(path)
    if "images" not in content:
        return {_stem(path.name).removesuffix(ENDING): path}
    names = [_stem(str(np.asarray(name).ravel()[0])) for name in np.asarray(content["images"]).ravel()]
    cells = np.asarray(content["boxes"]).ravel()
    if len(cells) != len(names):
        raise UserError(f"regions '{path}' have {len(cells)} arrays of boxes for {len(names)} images")
    return {name: _from_one(cell, path) for name, cell in zip(names, cells, strict=True)}


def _one(path: Path) -> np.ndarray:
    """The regions [N, 4] of a file of one image."""
    if path.suffix == ".npy":
        return _floats(_loaded(path), path)
    content = _matlab(path)
    return _floats(np.asarray(content["boxes"]), path)


def _floats(boxes: np.ndarray, path: Path) -> np.ndarray:
    """Regions [N, 4] as float32: whole numbers are pixels counted from 0, of which the last ones are included."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise UserError(f"regions '{path}' are an array {list(boxes.shape)} of {boxes.dtype}, expected numbers [N, 4]")
    result = boxes.astype(np.float32)
    result[:, 2:] += boxes.dtype.kind in "iu"
    return _sound(result, path)


def _from_one(boxes: np.ndarray, path: Path) -> np.ndarray:
    """Regions [N, 4] as float32 from R-CNN's y1 x1 y2 x2, counted from 1, of which the last ones are included."""
    result = np.asarray(boxes, np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    result[:, :2] -= 1
    return _sound(result, path)


def _sound(boxes: np.ndarray, path: Path) -> np.ndarray:
    """The boxes [N, 4] if they are boxes."""
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any() or (boxes < 0).any():
        raise UserError(f"regions '{path}' hold boxes that are none: expected 0 ≤ x1 ≤ x2 and 0 ≤ y1 ≤ y2")
    return boxes


def _loaded(path: Path) -> Any:
    """What a numpy file holds: an array, or for `.npz` a dictionary of them."""

    def load() -> Any:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return dict(content) if path.suffix == ".npz" else content

    return _guarded(path, load)


def _matlab(path: Path) -> dict[str, Any]:
    """What a MATLAB file holds; it must have `boxes`."""
    from scipy.io import loadmat  # comes with scikit-learn

    content = _guarded(path, lambda: loadmat(path))
    if "boxes" not in content:
        names = [name for name in content if not name.startswith("__")]
        raise UserError(f"regions '{path}' have no variable 'boxes'{nearest('boxes', names)}")
    return content


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; whatever a decoder stumbles over in broken bytes becomes one sentence."""
    try:
        return read()
    except OSError:
        raise
    except NotImplementedError as error:
        raise UserError(f"'{path}' is a MATLAB file of version 7.3; save it with '-v7' instead") from error
    except Exception as error:
        words = " ".join(str(error).split())
        raise UserError(f"regions '{path}' are damaged, or in a format that isn't known: {words}") from error
