"""Selective Search against OpenCV contrib's: `python benchmarks/selective_search.py [DATA] [OBJECTS] [MODE…]`.

Both run in this process with their own default threads, in turn on each photo of the val split (A B A B …) until the
photos hold as many OBJECTS (200 without a word); the table has medians over these pairs in milliseconds and the median
of their ratios. Recall and MABO compare equal counts: of each photo as many of the first boxes as the poorer side has.
OpenCV keeps boxes of any size; ours are dropped below 20 px by default, as in the paper's code. So there are three
comparisons: each by its defaults, both without boxes below 20 px, and both with all.
"""

from __future__ import annotations

import statistics
import sys
import time

import cv2
import numpy as np
import torch

from rcnn.data import open_dataset
from rcnn.evaluation import proposal_recall
from rcnn.process import tune_process
from rcnn.proposals import SelectiveSearch, SelectiveSearchOptions

DATA = "../shared/data/voc2012_mini"
SMALLEST = 20


def peer(pixels: np.ndarray, mode: str) -> np.ndarray:
    """OpenCV's boxes [N, 4] of an RGB image, in the order that it ranks them."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[:, :, ::-1]))
    {"fast": search.switchToSelectiveSearchFast, "quality": search.switchToSelectiveSearchQuality}[mode]()
    boxes = search.process().astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def large(boxes: np.ndarray) -> np.ndarray:
    """The boxes [N, 4] without those of a side below 20 px."""
    return boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= SMALLEST]


def compare(name: str, truths: list, ours: list, theirs: list) -> None:
    """One row: boxes an image, and recall and MABO of both at equal counts."""
    least = [min(len(a), len(b)) for a, b in zip(ours, theirs, strict=True)]
    row = f"  {name:34}{np.mean([len(a) for a in ours]):9.0f}{np.mean([len(b) for b in theirs]):8.0f}"
    for boxes in (ours, theirs):
        cut = [found[:count] for found, count in zip(boxes, least, strict=True)]
        result = proposal_recall(truths, cut, [max(least)], [0.5])
        row += f"{result.recall[0, 0]:9.3f}{result.mabo[0]:7.3f}"
    print(row, flush=True)


def measure(mode: str, data: str, objects: int) -> None:
    """Prints the rows of one mode."""
    dataset = open_dataset(data, "val")
    search = SelectiveSearch(SelectiveSearchOptions(mode=mode))
    everything = SelectiveSearch(SelectiveSearchOptions(mode=mode, min_side=0))
    search(dataset.image(0))  # compiles, or loads what was compiled
    times, truths, ours, all_ours, theirs = [], [], [], [], []
    for index in range(len(dataset)):
        truths.append(dataset.truth(index))
        pixels = dataset.image(index)
        start = time.perf_counter()
        ours.append(search(pixels))
        middle = time.perf_counter()
        theirs.append(peer(pixels, mode))
        times.append((middle - start, time.perf_counter() - middle))
        all_ours.append(everything(pixels))
        if sum(int((~truth.ignore).sum()) for truth in truths) >= objects:
            break
    mine, other = (1000 * statistics.median(side) for side in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    count = sum(int((~truth.ignore).sum()) for truth in truths)
    print(f"{mode}: {len(truths)} photos, {count} objects: {mine:.1f} ms, OpenCV {other:.0f} ms, ratio {ratio:.1f}")
    compare("each by its defaults", truths, ours, theirs)
    compare(f"both from {SMALLEST} px", truths, ours, [large(boxes) for boxes in theirs])
    compare("both of any size", truths, all_ours, theirs)


def main() -> None:
    """Prints the table."""
    tune_process()  # as our command line does; the peer profits too
    words = sys.argv[1:]
    data = words[0] if words else DATA
    objects = int(words[1]) if len(words) > 1 else 200
    print(f"OpenCV {cv2.__version__}, {cv2.getNumThreads()} threads; ours {torch.get_num_threads()} threads")
    print(f"{'':36}{'boxes':>9}{'OpenCV':>8}{'recall':>9}{'MABO':>7}{'OpenCV: recall':>16}{'MABO':>7}")
    for mode in words[2:] or ("fast", "quality"):
        measure(mode, data, objects)


if __name__ == "__main__":
    main()
