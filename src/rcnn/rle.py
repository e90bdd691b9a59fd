"""Masks as run lengths, COCO's form (Lin et al. 2014, section on the API): how many pixels are off, on, off, … down the
columns of an image, the first run being off.

An RLE is a dictionary of "size" [height, width] and "counts", the runs as a list, or as text in which each is a number
in base 32, from the fourth on as its difference to the one before the last. Letters: H W height and width, R runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_BITS = 5  # of a character
_SIGN, _MORE, _FIRST = 16, 32, 48  # bits of a character, and the character that stands for 0


def encode(mask: np.ndarray) -> np.ndarray:
    """The runs int64 [R] of a bool mask [H, W]."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size])))
    return np.concatenate(([0], runs)) if flat.size and flat[0] else runs


def decode(rle: dict[str, Any]) -> np.ndarray:
    """The bool mask [H, W] of an RLE."""
    height, width = rle["size"]
    runs = counts(rle)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def counts(rle: dict[str, Any]) -> np.ndarray:
    """The runs int64 [R] of an RLE, from text or a list.

    Raises:
        ValueError: the text is none that `compressed` writes, or the runs do not add up to the size.
    """
    height, width = rle["size"]
    written = rle["counts"]
    runs = np.asarray(written, np.int64) if isinstance(written, list | np.ndarray) else _read(written)
    total = int(runs.sum())
    if total != height * width or (runs < 0).any():
        raise ValueError(f"the runs count {total} pixels where the size has {height * width}")
    return runs


def compressed(runs: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """The RLE, its counts as text, of runs [R] in a mask of `size` (height, width)."""
    values = np.array(runs, np.int64)
    values[3:] -= np.asarray(runs, np.int64)[1:-2]
    length = np.ones(len(values), np.int64)
    reach = _SIGN
    while ((values >= reach) | (values < -reach)).any():
        length += (values >= reach) | (values < -reach)
        reach <<= _BITS
    place = np.arange(length.max(initial=1))
    digits = (values[:, None] >> (_BITS * place)) & (_MORE - 1)  # [R, characters]
    digits += _MORE * (place < length[:, None] - 1) + _FIRST
    text = digits[place < length[:, None]].astype(np.uint8).tobytes().decode("ascii")
    return {"size": [int(side) for side in size], "counts": text}


def _read(text: str | bytes) -> np.ndarray:
    """The runs [R] that a text stands for."""
    codes = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8)
    codes = codes.astype(np.int64) - _FIRST
    if ((codes < 0) | (codes >= 2 * _MORE)).any() or (len(codes) and codes[-1] & _MORE):
        raise ValueError("the counts are no text that COCO's RLE is written in")
    ends = np.flatnonzero(codes & _MORE == 0)  # the last character of each number
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if (place > 12).any():
        raise ValueError("the counts are no text that COCO's RLE is written in")
    values = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * place), starts) if len(ends) else codes
    negative = codes[ends] & _SIGN != 0
    values = values - np.where(negative, np.int64(1) << (_BITS * (place[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
