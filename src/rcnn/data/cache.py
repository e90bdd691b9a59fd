"""Indexes kept between runs, so that a large data set is parsed once.

An index is good for as long as the files that it came from keep their paths, sizes and times of change. The cache may
be deleted at any time; one that is damaged or cannot be written is passed over without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rcnn.data import index as columns
from rcnn.data.index import Index
from rcnn.files import cache_folder

# Part of every key: raise it when the columns or the meaning of their values change.
VERSION = 4


def fingerprint(root: Path, files: Iterable[str]) -> str:
    """A digest of the sizes and times of change of files and folders, and their paths below `root`."""
    digest = hashlib.sha256()
    for path in files:
        try:
            state = os.stat(path)
            entry = f"{path.removeprefix(str(root))}\0{state.st_size}\0{state.st_mtime_ns}\n"
        except OSError:  # missing, which is a state too
            entry = f"{path.removeprefix(str(root))}\n"
        digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def load(root: Path, state: str) -> Index | None:
    """The index of the data at `root` in the state of that fingerprint, memory-mapped; None where there is none."""
    try:
        return columns.load(_place(root, state))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def keep(root: Path, state: str, index: Index) -> None:
    """Writes an index whole or not at all, in place of older ones of the same data; failing to is no error."""
    place = _place(root, state)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".part-", dir=place.parent))
        try:
            columns.save(index, beside)
            for old in place.parent.glob(place.name.split("-")[0] + "-*"):
                shutil.rmtree(old, ignore_errors=True)
            os.replace(beside, place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def cached(root: Path, state: str, read: Callable[[], Index]) -> Index:
    """The kept index of the data at `root` where its files are unchanged, else the one that `read` makes, now kept."""
    index = load(root, state)
    if index is not None:
        return index
    index = read()
    keep(root, state, index)
    return load(root, state) or index


def _place(root: Path, state: str) -> Path:
    """The folder of one index."""
    owner = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:16]
    return cache_folder() / "data" / f"{owner}-{VERSION}{state}"
