"""Turning a data set from one format into another without loss: `rcnn data convert`.

The new data set is made in a folder beside its place and renamed to it when it is whole. Images keep their bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.data.dataset import Dataset, open_dataset
from rcnn.data.problems import Progress, silent
from rcnn.data.semantic import in_file
from rcnn.data.splits import ALL
from rcnn.data.writers import WRITERS, Entry, Writer
from rcnn.errors import UserError, nearest
from rcnn.files import telling

_USUAL = ("train", "val", "test")


@dataclass(frozen=True)
class Conversion:
    """What was written, and what the user should know about it."""

    images: int
    objects: int
    splits: dict[str, int]
    notes: list[str]


def convert(data: str | Path, to: str, out: str | Path, progress: Progress = silent) -> Conversion:
    """Writes the data set `data` in the format `to` (voc, coco, yolo or masks) into the new folder `out`.

    `progress` gives, for a number of images, a context whose function is told how many were copied.

    Raises:
        UserError: the data is unsound, the format unknown, or `out` is not empty or cannot be written.
        RCNNError: the disk is full; nothing is left behind.
    """
    if to not in WRITERS:
        raise UserError(f"there is no format '{to}'{nearest(to, WRITERS)}")
    out = Path(out)
    _require_free(out)
    dataset, maps = _opened(data, to)
    if dataset.path(0) is not None and out.resolve().is_relative_to(dataset.root.resolve()):
        raise UserError(f"'{out}' lies inside the data set '{dataset.root}' itself; name a folder elsewhere for --out")
    writer, notes = WRITERS[to], [dataset.note] if dataset.note else []
    splits = _splits(dataset, to, writer, notes)
    names = _names(dataset, splits, to, notes)
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    with telling(out, beside):
        try:
            beside.mkdir(parents=True)
            _place_images(dataset, splits, names, beside, writer, progress)
            _place_maps(dataset, maps, splits, names, beside, writer)
            entries = [Entry(names[i], dataset.size(i), dataset.truth(i)) for i in range(len(dataset))]
            writer.write(beside, dataset.classes, entries, splits)
            os.replace(beside, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    if (out / "rcnn.json").exists():
        notes.append("YOLO's labels cannot say difficult, crowd, areas or masks beside boxes: those are in rcnn.json.")
    if maps is not None and writer.map_path is None:
        notes.append(f"{len(maps)} label maps were left behind: {to} has no place for them, voc and masks have.")
    if not writer.boxes and any(len(entry.truth) for entry in entries):
        notes.append("The objects' boxes were left behind: this format has label maps only.")
    objects = sum(len(entry.truth) for entry in entries) if writer.boxes else 0
    return Conversion(len(entries), objects, {split: len(members) for split, members in splits.items()}, notes)


def _opened(data: str | Path, to: str) -> tuple[Dataset, Dataset | None]:
    """The data set, and that of its images which have label maps; None where none has.

    A format that has nothing else takes the images with label maps only.
    """
    try:
        maps = open_dataset(data, semantic=True)
    except UserError:
        if not WRITERS[to].boxes:
            raise
        return open_dataset(data), None
    return open_dataset(data) if WRITERS[to].boxes else maps, maps


def _require_free(out: Path) -> None:
    """Refuses a place that holds something."""
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"'{out}' is not empty; name a new folder for --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"'{out}' is a file; name a new folder for --out")


def _splits(dataset: Dataset, to: str, writer: Writer, notes: list[str]) -> dict[str, list[int]]:
    """Which images (by number in `dataset`, which holds all) each split of the result has."""
    own = {split: rows for split, rows in dataset.index.members.items() if split in dataset.splits}
    members = {
        split: np.searchsorted(dataset.rows, rows[np.isin(rows, dataset.rows)]).tolist() for split, rows in own.items()
    }
    if writer.any_split:
        return members
    # Elsewhere an image stands in one split: train, val and test first, then what others add.
    splits = {split: members[split] for split in _USUAL if split in members}
    taken = {i for part in splits.values() for i in part}
    for split, part in members.items():
        rest = [i for i in part if i not in taken]
        if split in splits:
            continue
        if len(rest) < len(part):
            notes.append(f"List '{split}' overlaps other splits and is not written as one of its own.")
        if not rest:
            continue
        name = split
        if to == "yolo" or split not in ("trainval", ALL):
            name = "train" if "train" not in splits else "val" if "val" not in splits else "test"
            if name in splits:
                notes.append(f"{len(rest)} images that only '{split}' lists were added to {name}.")
            elif name != split:
                notes.append(f"'{split}' is written as {name}.")
        splits[name] = splits.get(name, []) + rest
        taken.update(rest)
    return splits


def _names(dataset: Dataset, splits: dict[str, list[int]], to: str, notes: list[str]) -> list[str]:
    """A name for each image that its format can hold and that no other has, the old one wherever that is so."""
    split_of = {i: split for split, part in reversed(splits.items()) for i in part}
    taken: set[str] = set()
    names = []
    for i in range(len(dataset)):
        split = split_of[i]
        name = _writable(dataset.name(i))
        scope = f"{split}/" if to == "yolo" else ""
        stem, suffix = os.path.splitext(name)
        tries = [stem, f"{split}/{stem}", *(f"{split}/{stem}_{k}" for k in range(2, len(dataset) + 2))]
        free = next(one for one in tries if _key(scope + one) not in taken)
        taken.add(_key(scope + free))
        names.append(free + suffix)
    renamed = [i for i, name in enumerate(names) if name != dataset.name(i)]
    if renamed:
        example = f"'{dataset.name(renamed[0])}' to '{names[renamed[0]]}'"
        notes.append(f"{len(renamed)} images were renamed, as {example}: their names were taken or not writable.")
    return names


def _key(stem: str) -> str:
    """What two names share on a disk that tells neither case nor Unicode's forms apart."""
    return unicodedata.normalize("NFC", stem).casefold()


def _writable(name: str) -> str:
    """A name without what lists, XML or paths cannot hold."""
    name = re.sub(r"[^\S ]|[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff\\]", "_", name)
    parts = [part.strip() for part in name.split("/") if part.strip() not in ("", ".", "..")]
    name = "/".join(parts) or "image"
    return name if os.path.splitext(name)[1] else f"{name}.jpg"


def _place_maps(
    dataset: Dataset,
    maps: Dataset | None,
    splits: dict[str, list[int]],
    names: list[str],
    folder: Path,
    writer: Writer,
) -> None:
    """Writes each label map as a palette PNG to where its format keeps it."""
    if maps is None or writer.map_path is None:
        return
    split_of = {i: split for split, part in reversed(splits.items()) for i in part}
    place = {int(row): k for k, row in enumerate(maps.rows)}
    for i, row in enumerate(dataset.rows.tolist()):
        if row in place:
            target = (folder / writer.map_path(split_of[i], names[i])).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            in_file(maps.label_map(place[row]), len(maps.classes)).save(target)


def _place_images(
    dataset: Dataset,
    splits: dict[str, list[int]],
    names: list[str],
    folder: Path,
    writer: Writer,
    progress: Progress,
) -> None:
    """Copies each image once to where its format keeps it; images in memory become PNG files."""
    split_of = {i: split for split, part in reversed(splits.items()) for i in part}
    with progress(len(split_of)) as done:
        for count, i in enumerate(sorted(split_of), 1):
            target = folder / writer.image_path(split_of[i], names[i])
            target.parent.mkdir(parents=True, exist_ok=True)
            source = dataset.path(i)
            if source is None:
                Image.fromarray(dataset.image(i)).save(target)
            else:
                shutil.copyfile(source, target)
            done(count)
