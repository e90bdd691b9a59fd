"""The embedded data set `digits`: real handwriting on textured paper, with boxes, instance masks and semantic labels.

The 1,797 handwritten 8×8 digits that ship with scikit-learn (Alpaydin and Kaynak 1998, UCI) are shared out between the
splits, so that no hand seen in training is met again, and written onto 320×240 sheets at 20–100 px. Everything comes
from one seed through whole-number arithmetic, so the arrays are the same bytes on every machine; `DIGESTS` pins them.
Letters: I images of a split, G digits of an image, H W = 240 320.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rcnn.data.handwriting import Shape, bounds, field, ink
from rcnn.data.paper import HEIGHT, WIDTH, blend, muted, sheet
from rcnn.data.seeds import Draws, counter_seed, permutation
from rcnn.errors import RCNNError, UserError, nearest
from rcnn.files import cache_folder, writing

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SPLITS = {"train": 400, "val": 100, "test": 100}
SHORTEST, LONGEST = 20, 100  # pixels of a box's longer side
MOST = 12  # digits an image
LEAST_VISIBLE = 55  # per cent of a digit's ink that later digits leave uncovered

_SEED = 1797
# SHA-256 of each split's arrays: a cache is believed only when it holds these very bytes.
DIGESTS = {
    "train": "4483d6f6582f4025bf05d41b1c0ebd37f469c8f40f7381896482bdee6600e672",
    "val": "a692388f584377e3df9392a56bc15e7fd473ab1109076c2d1e26f0a2bf9b214e",
    "test": "636ade0d411550f10028c16131fc880f1b2e38b4fed8e5644d1c68393c43047b",
}


@dataclass(frozen=True)
class DigitsSplit:
    """One split of the data set.

    Attributes:
        images: [I, H, W, 3] uint8 RGB.
        instances: [I, H, W] uint8: 0 background, k + 1 where digit k of the image is visible.
        boxes: one float32 [G, 4] an image, pixels, tight to the visible ink.
        labels: one int64 [G] an image, the index into `CLASSES`.
        sources: one int64 [G] an image, the index of the handwriting in scikit-learn's `load_digits`.
    """

    split: str
    images: np.ndarray
    instances: np.ndarray
    boxes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    sources: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def semantic(self) -> np.ndarray:
        """[I, H, W] uint8: 0 background, class index + 1 where a digit is visible."""
        tables = np.zeros((len(self), MOST + 1), np.uint8)
        for table, labels in zip(tables, self.labels, strict=True):
            table[1 : len(labels) + 1] = labels + 1
        return tables[np.arange(len(self))[:, None, None], self.instances]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        # A worker process that is not forked reads the cache again instead of receiving 120 MB through a pipe.
        return generate, (self.split,)


def generate(split: str) -> DigitsSplit:
    """The split "train" (400 images), "val" or "test" (100 each), from the cache where it holds the right bytes.

    The images are [I, 240, 320, 3]; see `DigitsSplit`.

    Raises:
        UserError: another split is named.
        RCNNError: scikit-learn is missing.
    """
    if split not in SPLITS:
        raise UserError(f"digits has no split '{split}'{nearest(split, SPLITS)}")
    place = cache_folder() / f"digits-{split}-{DIGESTS[split][:16]}.npz"
    with contextlib.suppress(Exception):  # whatever is wrong with a cache, the answer is to draw again
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as members:
            kept = {name: members[name] for name in _DTYPES}
        if _digest(kept) == DIGESTS[split]:
            return _unpacked(split, kept)
    arrays = _written(split)
    if _digest(arrays) != DIGESTS[split]:
        warnings.warn(f"the '{split}' images of digits differ from the published ones", stacklevel=2)
        return _unpacked(split, arrays)
    with contextlib.suppress(RCNNError, OSError), writing(place) as beside:
        np.savez(beside, **arrays)  # type: ignore[arg-type]
    return _unpacked(split, arrays)


_DTYPES = {"images": "|u1", "instances": "|u1", "counts": "<i8", "boxes": "<f4", "labels": "<i8", "sources": "<i8"}


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of a split's arrays [...], shapes and types included."""
    digest = hashlib.sha256()
    for name, dtype in _DTYPES.items():
        array = np.ascontiguousarray(arrays[name].astype(dtype, copy=False))
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _unpacked(split: str, arrays: dict[str, np.ndarray]) -> DigitsSplit:
    """Cuts the flat per-digit arrays [sum of G, ...] into one array an image."""
    ends = np.cumsum(arrays["counts"])[:-1]
    ragged = {name: tuple(np.split(arrays[name], ends)) for name in ("boxes", "labels", "sources")}
    return DigitsSplit(split, arrays["images"], arrays["instances"], **ragged)


def _written(split: str) -> dict[str, np.ndarray]:
    """Draws all images of a split; the arrays [...] of `_DTYPES`."""
    glyphs, targets = _handwriting()
    pools = _shared_out(targets)[split]
    ordinal, count = list(SPLITS).index(split), SPLITS[split]
    images = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    instances = np.empty((count, HEIGHT, WIDTH), np.uint8)
    sources: list[list[int]] = []
    boxes: list[tuple[int, int, int, int]] = []
    for image in range(count):
        draws = Draws(counter_seed(_SEED, ordinal, image))
        images[image], instances[image], written = _page(draws, glyphs, pools)
        sources.append(written)
        for k in range(len(written)):
            y1, x1, y2, x2 = bounds(instances[image] == k + 1)
            boxes.append((x1, y1, x2, y2))
    flat = np.array([source for written in sources for source in written], np.int64)
    counts = np.array([len(written) for written in sources], np.int64)
    return {
        "images": images,
        "instances": instances,
        "counts": counts,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": targets[flat],
        "sources": flat,
    }


def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    """The handwriting: grey levels 0–16 as uint8 [1797, 8, 8] and classes as int64 [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RCNNError("the data set 'digits' needs scikit-learn, which is not installed") from error
    levels, targets = load_digits(return_X_y=True)
    return np.asarray(levels).reshape(-1, 8, 8).astype(np.uint8), np.asarray(targets).astype(np.int64)


def _shared_out(targets: np.ndarray) -> dict[str, list[np.ndarray]]:
    """For each split and class the handwriting it may use, of classes [1797]: four parts in six, one and one."""
    pools: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for target in range(len(CLASSES)):
        members = np.flatnonzero(targets == target)
        members = members[permutation(counter_seed(_SEED, len(SPLITS), target), len(members))]
        parts = np.split(members, [len(members) * 4 // 6, len(members) * 5 // 6])
        for split, part in zip(SPLITS, parts, strict=True):
            pools[split].append(part)
    return pools


def _page(draws: Draws, glyphs: np.ndarray, pools: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One image [H, W, 3], its instances [H, W] and the sources of its digits, in the order of writing."""
    canvas = sheet(draws)
    instances = np.zeros((HEIGHT, WIDTH), np.uint8)
    written: list[int] = []
    for _ in range(draws.integer(0, MOST)):
        pool = pools[draws.integer(0, len(CLASSES) - 1)]
        source = int(pool[draws.integer(0, len(pool) - 1)])
        smooth = field(glyphs[source])
        overlapping = draws.chance(8)
        for _ in range(6):  # a digit that finds no room is tried in other shapes, then left out
            coverage = ink(smooth, _shape(draws))
            place = _place(draws, coverage, instances, overlapping)
            if place is not None:
                written.append(source)
                instances[place][coverage >= 128] = len(written)
                canvas[:, *place] = _inked(draws, canvas[:, *place], coverage)
                break
    return canvas.astype(np.uint8).transpose(1, 2, 0), instances, written


def _shape(draws: Draws) -> Shape:
    """How the next digit is written.

    Sizes are the mean of a log-uniform and a uniform draw: small ones are common, but most can be read at a glance.
    """
    sides = SHORTEST + 1, LONGEST - 3
    return Shape(
        longest=(draws.reciprocal(*sides) + draws.integer(*sides)) // 2,
        stretch=Fraction(draws.reciprocal(12, 28), 16),
        slant=Fraction(draws.integer(-1, 4), 16),
        turn=Fraction(draws.integer(-4, 4), 64),
        threshold=draws.integer(1500, 1900),
    )


def _place(draws: Draws, coverage: np.ndarray, instances: np.ndarray, overlapping: bool) -> tuple[slice, slice] | None:
    """Where the ink of coverage [h, w] may go on the sheet of instances [H, W]; None where five draws find no room.

    Digits keep apart from each other's ink, or, where `overlapping`, leave enough of each other to be seen.
    """
    h, w = coverage.shape
    for _ in range(5):
        y, x = draws.integer(0, HEIGHT - h), draws.integer(0, WIDTH - w)
        place = slice(y, y + h), slice(x, x + w)
        if not overlapping and not instances[place].any():
            return place
        if overlapping and _overlaps_fairly(instances, place, coverage >= 128):
            return place
    return None


def _overlaps_fairly(instances: np.ndarray, place: tuple[slice, slice], solid: np.ndarray) -> bool:
    """Whether ink [h, w] at `place` on instances [H, W] covers some of another digit, yet none too much."""
    covered = np.unique(instances[place][solid])
    for k in covered[covered > 0]:
        digit = instances == k
        before = np.count_nonzero(digit)
        digit[place] &= ~solid
        if np.count_nonzero(digit) * 100 < before * LEAST_VISIBLE:
            return False
        y1, x1, y2, x2 = bounds(digit)
        if max(y2 - y1, x2 - x1) < SHORTEST:
            return False
    return bool(covered.any())


def _inked(draws: Draws, paper: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Paper [3, h, w] with ink of coverage [h, w] in a colour that stands out from it: int16 [3, h, w]."""
    weights = np.array([2, 5, 1], np.int32)  # of red, green and blue in brightness, in eighths
    solid = coverage >= 128
    below = int(weights @ paper[:, solid].sum(1)) // np.count_nonzero(solid)
    contrast = draws.integer(100, 170) * 8
    colour = muted(draws, 0, 255)
    while abs(int(weights @ colour) - below) < contrast:
        colour = muted(draws, 0, 255)
        contrast -= 8  # ends on middle grey too, where no colour stands out by more than half the range
    noise = draws.bytes(*coverage.shape).astype(np.int32) * draws.integer(0, 30) >> 8
    return blend(paper, colour, coverage * (draws.integer(190, 256) - noise) >> 8)
