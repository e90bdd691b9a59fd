"""Images a second that loading gives: `python benchmarks/loading.py [ROUNDS] [SIDE]`.

JPEGs of 640 × 480 with seven boxes each in a COCO folder, decoded, mirrored at random and resized to SIDE (512) pixels,
in batches of two, with 0, 1 and 2 workers. The peer is torchvision's way: `CocoDetection` wrapped for transforms v2, in
torch's `DataLoader`. Ours also with all that `modern` does to images. Each side in its own process, in turn. Loading
has to give more images a second than `training.py` says that steps take.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from processes import alternate, medians, processor

SIDES = ("torchvision", "ours", "ours, modern")
IMAGES, OBJECTS, BATCH, WARM_UP, TIMED = 64, 7, 2, 4, 48
WORKERS = (0, 1, 2)


def photos(folder: Path) -> None:
    """Writes smooth pictures with as much grain as makes the files as large as photographs, and their boxes."""
    random, annotations = np.random.default_rng(0), []
    for name in ("images", "annotations"):
        (folder / name).mkdir()
    for k in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + random.normal(0, 18, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k:03}.jpg", quality=90)
        for x, y, w, h in random.uniform((0, 0, 40, 40), (300, 200, 300, 250), (OBJECTS, 4)).round(1).tolist():
            ids = {"id": len(annotations) + 1, "image_id": k + 1, "category_id": 1}
            annotations.append({**ids, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": []})
    images = [{"id": k + 1, "file_name": f"{k:03}.jpg", "height": 480, "width": 640} for k in range(IMAGES)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    for split in ("train", "val"):
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def theirs(folder: Path, side: int, workers: int) -> Iterator[object]:
    """Batches of torchvision's own pieces, without end."""
    import torch
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    steps = [
        v2.ToImage(),
        v2.RandomHorizontalFlip(0.5),
        v2.Resize(side, max_size=2 * side),
        v2.ToDtype(torch.float32, scale=True),
    ]
    data = CocoDetection(folder / "images", folder / "annotations" / "train.json", transforms=v2.Compose(steps))
    loader = torch.utils.data.DataLoader(
        wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels")),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def ours(folder: Path, side: int, workers: int, *, modern: bool) -> Iterator[object]:
    """Batches of ours, without end."""
    from rcnn.data import Augmentation, TrainLoader, open_dataset

    augmentation = Augmentation.modern() if modern else Augmentation.classic()
    options = {"batch_size": BATCH, "augmentation": augmentation, "seed": 0, "workers": workers}
    return TrainLoader(open_dataset(folder, "train"), short=side, long=2 * side, **options).batches()


def measure(side: str, folder: str, pixels: str) -> None:
    """Prints the images a second of each number of workers."""
    found = {}
    for workers in WORKERS:
        if side == "torchvision":
            batches = theirs(Path(folder), int(pixels), workers)
        else:
            batches = ours(Path(folder), int(pixels), workers, modern=side != "ours")
        for _ in range(WARM_UP):
            next(batches)
        start = time.perf_counter()
        for _ in range(TIMED):
            next(batches)
        found[str(workers)] = [BATCH * TIMED / (time.perf_counter() - start)]
        del batches
    print(json.dumps(found))


def main() -> None:
    """Prints the table, or one side's figures."""
    words = sys.argv[1:]
    if words and words[0] in SIDES:
        measure(*words)
        return
    rounds, side = int(words[0]) if words else 3, words[1] if words[1:] else "512"
    with tempfile.TemporaryDirectory() as folder:
        photos(Path(folder))
        found = alternate(__file__, SIDES, [folder, side], rounds)
    print(f"{processor()}; images a second, {side} px")
    print(f"{'workers':14}" + "".join(f"{workers:>8}" for workers in WORKERS))
    for name in SIDES:
        rates = medians(found[name])
        print(f"{name:14}" + "".join(f"{rates[str(workers)]:8.0f}" for workers in WORKERS))


if __name__ == "__main__":
    main()
