"""The features of every training region, kept on disk between the stages that make and use them.

R-CNN's SVMs see each region of each image, far more numbers than memory holds (Girshick et al. 2014, section 2.3), so
fc7 goes to one file, and pool5 of the few regions that box regression learns from to another. Both have their full
size from the start, and an image counts as done once its rows are on disk. The folder remembers what its content was
made from, and content of anything else is thrown away. Letters: I images, R rows of one image, D and F length of fc7
and pool5.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.errors import RCNNError
from rcnn.files import telling, write_text

FC7, POOL5, DONE, ABOUT = "fc7.bin", "pool5.bin", "done.bin", "features.json"
GIGA = 2**30


@dataclass(frozen=True)
class Layout:
    """What a feature folder holds.

    Attributes:
        key: digest of all that the features depend on.
        fc7_rows: [I] how many rows of fc7 each image has; pool5_rows: [I] of pool5.
        fc7_width: D; pool5_width: F.
        stored: "float32" or "float16".
    """

    key: str
    fc7_rows: np.ndarray
    pool5_rows: np.ndarray
    fc7_width: int
    pool5_width: int
    stored: str

    @property
    def about(self) -> dict[str, str | int]:
        """What the folder's description says."""
        return {"key": self.key, "fc7": self.fc7_width, "pool5": self.pool5_width}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of features."""
        item = np.dtype(self.stored).itemsize
        return {
            FC7: int(self.fc7_rows.sum()) * self.fc7_width * item,
            POOL5: int(self.pool5_rows.sum()) * self.pool5_width * item,
        }

    def __str__(self) -> str:
        near = f" and {int(self.pool5_rows.sum()):,} × {self.pool5_width:,}" if self.pool5_rows.any() else ""
        total = sum(self.sizes.values()) / GIGA
        return f"{int(self.fc7_rows.sum()):,} × {self.fc7_width:,}{near} numbers in {self.stored}: {total:.2f} GiB"


class FeatureFiles:
    """The features in a folder, made and read image by image.

    Args:
        folder: theirs alone; content that does not fit the layout is removed from it.
        layout: what they are.

    Raises:
        RCNNError: the disk has no room for them; nothing is left there then.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        with telling(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not holds(folder, layout):
                self._begin()
            self.done = np.fromfile(folder / DONE, np.uint8).astype(bool)  # [I]
        self._starts = {
            FC7: np.concatenate(([0], np.cumsum(layout.fc7_rows, dtype=np.int64))),
            POOL5: np.concatenate(([0], np.cumsum(layout.pool5_rows, dtype=np.int64))),
        }
        self._widths = {FC7: layout.fc7_width, POOL5: layout.pool5_width}

    def write(self, image: int, fc7: np.ndarray, pool5: np.ndarray) -> None:
        """Puts the rows fc7 [R, D] and pool5 [≤ R, F] of an image on disk, and then marks it as done."""
        with telling(self.folder):
            for name, rows in ((FC7, fc7), (POOL5, pool5)):
                start, end = self._starts[name][image : image + 2].tolist()
                if rows.shape != (end - start, self._widths[name]):
                    raise RCNNError(f"features of image {image} are {rows.shape}: {end - start} rows were expected")
                with open(self.folder / name, "rb+") as file:
                    file.seek(start * self._widths[name] * np.dtype(self.layout.stored).itemsize)
                    file.write(np.ascontiguousarray(rows, self.layout.stored).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            with open(self.folder / DONE, "rb+") as file:
                file.seek(image)
                file.write(b"\1")
        self.done[image] = True

    def fc7(self, image: int) -> np.ndarray:
        """fc7 [R, D] of an image, float32."""
        return self._rows(FC7, image)

    def pool5(self, image: int) -> np.ndarray:
        """The stored rows of pool5 [≤ R, F] of an image, float32."""
        return self._rows(POOL5, image)

    def _rows(self, name: str, image: int) -> np.ndarray:
        """An image's rows, read through a map of the file: only their pages are touched."""
        start, end = self._starts[name][image : image + 2].tolist()
        shape = int(self._starts[name][-1]), self._widths[name]
        if start == end:
            return np.empty((0, shape[1]), np.float32)
        mapped = np.memmap(self.folder / name, self.layout.stored, "r", shape=shape)
        return np.array(mapped[start:end], np.float32)

    def _begin(self) -> None:
        """Makes room for the features; the description comes last, so that a kill leaves nothing that looks whole."""
        layout = self.layout
        self.remove()
        need, free = sum(layout.sizes.values()), shutil.disk_usage(self.folder).free
        if need > free:
            raise RCNNError(
                f"the features need {need / GIGA:.2f} GiB and '{self.folder}' has {free / GIGA:.2f} GiB left: make"
                " room, store them as float16 (model.svm.stored), or take fewer regions (model.regions.count)"
            )
        try:
            for name, size in {**layout.sizes, DONE: len(layout.fc7_rows)}.items():
                _reserve(self.folder / name, size)
            write_text(self.folder / ABOUT, json.dumps(layout.about))
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Deletes the features."""
        for name in (ABOUT, DONE, FC7, POOL5):
            (self.folder / name).unlink(missing_ok=True)


def holds(folder: Path, layout: Layout) -> bool:
    """Whether the folder holds features of this very layout, done or under way."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in (FC7, POOL5, DONE)}
    except (OSError, ValueError):
        return False
    return about == layout.about and sizes == {**layout.sizes, DONE: len(layout.fc7_rows)}


def _reserve(path: Path, size: int) -> None:
    """A file of `size` zero bytes whose place on the disk is taken at once, where the file system can do that."""
    with open(path, "wb") as file:
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
