"""Which images make up train, val and test, also where a data set does not say so.

n are the images of a split. A split that is missing is replaced by convention, and a note says by what.
"""

from __future__ import annotations

import hashlib

import numpy as np

from rcnn.data.index import Index
from rcnn.errors import UserError, nearest

ALL = "all"
_HELD_OUT = 5  # every fifth image is held out where there is nothing to validate on


def available(index: Index) -> tuple[str, ...]:
    """The data set's own splits: train, val and test first, then others by name; ("all",) where it has none."""
    usual = [split for split in ("train", "val", "test", "trainval") if split in index.members]
    return (*usual, *sorted(set(index.members) - set(usual))) or (ALL,)


def choose(index: Index, split: str | None, data: str) -> tuple[str, np.ndarray, str]:
    """Name, rows [n] and note of a split; None means every image.

    Raises:
        UserError: there is no such split and nothing stands in for it, or it has no images.
    """
    asked = {"valid": "val", "validation": "val", None: ALL}.get(split, split or ALL)
    rows, note = _rows(index, asked)
    if rows is None:
        own = [name for name in available(index) if name != ALL]
        raise UserError(f"data '{data}' has no split '{split}'{nearest(asked, [*own, ALL])}")
    if not len(rows):
        raise UserError(f"split '{asked}' of data '{data}' has no images")
    return asked, rows, note


def _rows(index: Index, split: str) -> tuple[np.ndarray | None, str]:
    """Rows [n] of a split, None where nothing can stand in for it, and what to tell the user."""
    members = index.members
    unheld = not {"val", "test"} & set(members)
    if split in members and not (split == "train" and unheld):
        return np.asarray(members[split]), ""
    if split == ALL:
        return np.unique(np.concatenate([np.zeros(0, np.int64), *members.values()])), ""
    if split == "val" and "test" in members:
        return np.asarray(members["test"]), "There is no val split: test is used instead."
    pool, origin = _pool(index)
    if pool is None or split not in ("train", "val"):
        return None, ""
    if split == "train" and not unheld:
        return pool, f"There is no train split: {origin} is used."
    if len(pool) < 2:
        return pool, f"There is no val split, and but one image: {origin} is used for train and val."
    held = _held_out(index, pool)
    note = (
        f"There is no val split: every fifth image by a hash of its name ({held.sum()} of {len(pool)} of {origin}) "
        "is used for it and kept out of train."
    )
    return (pool[held] if split == "val" else pool[~held]), note


def _pool(index: Index) -> tuple[np.ndarray | None, str]:
    """Rows to train on where train or val is missing, and what they are."""
    members = index.members
    if "train" in members:
        return np.asarray(members["train"]), "train"
    if "trainval" in members:
        rest = np.setdiff1d(members["trainval"], members.get("val", []))
        return rest, "trainval" + (" without val" if "val" in members else "")
    others = set(members) - {"val", "test"}
    if len(others) == 1:
        name = others.pop()
        return np.asarray(members[name]), "the whole data set" if name == ALL else f"'{name}'"
    return None, ""


def _held_out(index: Index, rows: np.ndarray) -> np.ndarray:
    """Which of `rows` [n] are held out: bool [n], some but not all, the same on every machine."""
    keys = [hashlib.blake2b(index.names[row], digest_size=8).digest() for row in rows.tolist()]
    held = np.array([int.from_bytes(key, "big") % _HELD_OUT == 0 for key in keys], bool)
    if held.all() or not held.any():
        held[:] = False
        held[keys.index(min(keys))] = True
    return held
