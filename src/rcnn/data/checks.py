"""Everything that is wrong with a data set, in one list: what `rcnn data check` prints.

Opening a data set stops at the first problem of its annotations and believes the sizes that they state; this goes on,
and reads every image.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rcnn.data.dataset import DIGITS, folder_of, open_dataset, read_labels, recognise, size_problem
from rcnn.data.images import read_image
from rcnn.data.index import Index
from rcnn.data.problems import Problem, Progress, silent
from rcnn.data.splits import choose
from rcnn.errors import UserError


@dataclass(frozen=True)
class Findings:
    """What a check saw: how many images and objects, and what is wrong with them."""

    images: int
    objects: int
    problems: list[Problem]


def check(data: str, split: str | None = None, progress: Progress = silent) -> Findings:
    """Checks all annotations of a data set and reads every image, those of one `split` where it is given.

    `progress` gives, for a number of images, a context whose function is told how many were read.

    Raises:
        UserError: there is no such data set or split.
    """
    if data == DIGITS and not Path(data).exists():
        made = open_dataset(data, split)
        return Findings(len(made), len(made.columns()["labels"]), [])
    root = Path(data)
    reader = recognise(root)
    try:
        index, problems = reader.read(root)
    except UserError as error:
        return Findings(0, 0, [Problem(f"'{data}'", str(error), "put this right, then check again")])
    if len(index) == 0 and problems:  # nothing left that could be read
        return Findings(0, 0, problems)
    _, rows, _ = choose(index, split, data)
    problems += _shared_between_splits(index)
    problems += _check_images(index, rows, folder_of(root), progress)
    problems += _check_maps(index, rows, folder_of(root))
    counts = np.diff(index.first)[rows]
    return Findings(len(rows), int(counts.sum()), problems)


def _shared_between_splits(index: Index) -> list[Problem]:
    """Images that stand in two of train, val and test, which makes the judgement on the second too good."""
    files = {
        split: {index.file(row) for row in index.members[split].tolist()}
        for split in ("train", "val", "test")
        if split in index.members
    }
    return [
        Problem(f"'{file}'", f"the image is in both {first} and {second}", "take it out of one of them")
        for first, second in combinations(files, 2)
        for file in sorted(files[first] & files[second])
    ]


def _check_maps(index: Index, rows: np.ndarray, folder: Path) -> list[Problem]:
    """Reads the label maps of `rows` [n]; reports those that cannot be used."""

    def check_one(row: int) -> Problem | None:
        """What is wrong with one map, if anything."""
        try:
            read_labels(index, folder, row)
        except UserError as error:
            what, _, fix = str(error).partition("; ")
            return Problem(f"'{folder / index.map(row)}'", what, fix or "write it again")
        return None

    mapped = [row for row in rows.tolist() if index.map(row)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [problem for problem in pool.map(check_one, mapped) if problem is not None]


def _check_images(index: Index, rows: np.ndarray, folder: Path, progress: Progress) -> list[Problem]:
    """Reads the images of `rows` [n]; reports those that are missing, damaged, or not of the annotated size."""

    def check_one(row: int) -> Problem | None:
        """What is wrong with one image, if anything."""
        path = folder / index.file(row)
        height, width = index.sizes[row].tolist()
        try:
            if read_image(path).shape[:2] != (height, width):
                return size_problem(path, (height, width))
        except UserError as error:
            what, _, fix = str(error).partition("; ")
            return Problem(f"'{path}'", what, fix or "replace it or take it out of the data set")
        return None

    problems = []
    # Pillow decodes outside Python's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(len(rows)) as done:
        for count, problem in enumerate(pool.map(check_one, rows.tolist()), 1):
            if problem is not None:
                problems.append(problem)
            done(count)
    return problems
