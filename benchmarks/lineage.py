"""What an image costs each generation: `python benchmarks/lineage.py [IMAGE] [REGIONS]`.

R-CNN, SPP-net and Fast R-CNN, the last also with fc6 and fc7 as truncated SVD at ranks 1,024 and 256 leaves them, on
one backbone of VGG16's shape with random weights, 20 classes, one image whose shorter side becomes 600 px, and the same
2,000 regions, given. Without IMAGE it is drawn, 500×375, and its regions at random. Seconds are of `predict`: resizing,
the networks, class scores, boxes and NMS; the search for regions costs all of them the same and is printed apart. The
slow system runs once, the others three times, after a round on few regions. Disk is fc7 of an image's regions, which
the SVMs are fitted to (pool5 of those near an object comes on top); Fast R-CNN stores nothing.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

import rcnn
from rcnn.data import read_image
from rcnn.detectors import Detector
from rcnn.detectors.three_stage import ThreeStageDetector
from rcnn.process import tune_process
from rcnn.proposals import SelectiveSearch, SelectiveSearchOptions
from rcnn.training.features import Layout

CLASSES = [f"class {k}" for k in range(20)]
SIZE = (600, 1000)
RANKS = (1024, 256)


def drawn(regions: int) -> tuple[np.ndarray, np.ndarray]:
    """An image [375, 500, 3] of noise and boxes [N, 4] of all sizes in it."""
    rng = np.random.default_rng(0)
    low, side = rng.random((regions, 2)), 20 * 15 ** rng.random((regions, 2))  # sides from 20 to 300 px
    corner = low * (np.array([500, 375]) - side)
    boxes = np.concatenate((corner, corner + side), 1)
    return rng.integers(0, 256, (375, 500, 3), np.uint8), boxes.astype(np.float32)


def searched(path: str, regions: int) -> tuple[np.ndarray, np.ndarray]:
    """The image of a file and its best regions [N, 4] by Selective Search, whose time is printed."""
    pixels = read_image(path)
    search = SelectiveSearch(SelectiveSearchOptions(mode="quality"), count=regions)
    search(pixels)
    start = time.perf_counter()
    boxes = search(pixels)
    print(f"Selective Search (quality): {time.perf_counter() - start:.2f} s, {len(boxes)} regions")
    return pixels, boxes


def main() -> None:
    """Prints the table."""
    tune_process()
    words = sys.argv[1:]
    regions = int(words[1]) if len(words) > 1 else 2000
    pixels, boxes = searched(words[0], regions) if words else drawn(regions)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, image {pixels.shape[:2]}, {len(boxes)} regions"
    )
    systems = {
        "R-CNN": ("rcnn/vgg16", {}),
        "SPP-net": ("sppnet/vgg16", {}),
        "Fast R-CNN": ("fast-rcnn/vgg16", {}),
        "Fast R-CNN + SVD": ("fast-rcnn/vgg16", {"box": {"ranks": RANKS}}),
    }
    times: dict[str, float] = {}
    for name, (system, settings) in systems.items():
        model = rcnn.create(system, CLASSES, settings={"image_size": SIZE, **settings}).eval()
        model.predict(pixels, regions=[boxes[:16]])
        taken = []
        for _ in range(1 if name == "R-CNN" else 3):
            start = time.perf_counter()
            model.predict(pixels, regions=[boxes])
            taken.append(time.perf_counter() - start)
        times[name] = statistics.median(taken)
        gain = times["R-CNN"] / times[name]
        print(f"{name:18}{times[name]:9.2f} s{gain:8.1f} ×{disk(model, len(boxes)) / 2**20:9.0f} MiB", flush=True)


def disk(model: Detector, regions: int) -> int:
    """Bytes of the fc7 features that SVMs are fitted to, of one image; Fast R-CNN learns without."""
    if not isinstance(model, ThreeStageDetector):
        return 0
    rows, none = np.array([regions]), np.array([0])
    return sum(Layout("", rows, none, model.svm.weight.shape[1], 0, model.options.svm.stored).sizes.values())


if __name__ == "__main__":
    main()
