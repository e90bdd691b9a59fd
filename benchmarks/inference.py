"""Predictions against torchvision's: `python benchmarks/inference.py [ROUNDS] [PAIR…]`.

The same weights in both, random but calibrated on the photos so that proposals and candidates are as many as those of
trained models; eight photos, one at a time, from uint8 pixels to boxes (and masks as torchvision pastes them). Sides,
each in its own process: torchvision as it is, torchvision with our allocator settings, ours in fp32 and in bf16. A
figure is the median over rounds of the median over photos; a ratio is torchvision as it is by ours.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peers import calibrated
from processes import alternate, medians, processor
from torchvision.models import detection

from rcnn.data import read_image
from rcnn.interop import Asked, built
from rcnn.interop.torchvision import read
from rcnn.process import tune_process

PHOTOS = Path("../shared/data/voc2012_mini/JPEGImages")
COUNT = 8
CLASSES = 90
PAIRS = {
    "faster-r50": ("fasterrcnn_resnet50_fpn", ""),
    "mask-r50": ("maskrcnn_resnet50_fpn", ""),
    "faster-mobile-800": ("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_fpn"),
    "faster-mobile-320": ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
}
SIDES = ("torchvision", "torchvision+allocator", "ours", "ours-bf16")


def photos() -> list[np.ndarray]:
    """The photos, uint8 [H, W, 3]."""
    files = sorted(PHOTOS.glob("*.jpg"))
    return [read_image(file) for file in files[:: max(len(files) // COUNT, 1)][:COUNT]]


def measure(side: str, pair: str, weights: str) -> None:
    """Prints the milliseconds of each photo and the number of detections."""
    name, asked = PAIRS[pair]
    if side != "torchvision":
        tune_process()
    if side.startswith("torchvision"):
        model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
        model.load_state_dict(torch.load(weights))

        def run(image: np.ndarray) -> int:
            with torch.inference_mode():
                return len(model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]["scores"])
    else:
        from rcnn import quicken

        ours = quicken(built(read(Path(weights), Asked(model=asked, bn_eps=1e-5))))
        ours.precision = "bf16" if side.endswith("bf16") else "fp32"

        def run(image: np.ndarray) -> int:
            return len(ours.predict(image, score=0.05)[0])

    images = photos()
    counts = [run(image) for image in images]
    times = []
    for image in images:
        start = time.perf_counter()
        run(image)
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"ms": times, "detections": counts}))


def main() -> None:
    """Prints the table, or one side's line."""
    words = sys.argv[1:]
    if words and words[0] in SIDES:
        measure(*words)
        return
    rounds = int(words[0]) if words else 3
    print(processor())
    print(f"{'':20}" + "".join(f"{side:>24}" for side in SIDES) + f"{'fp32':>8}{'bf16':>8}")
    for pair in words[1:] or PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            weights = str(Path(folder) / "weights.pth")
            torch.save(calibrated(PAIRS[pair][0], photos()[:4], classes=CLASSES).state_dict(), weights)
            found = {
                side: medians(times) for side, times in alternate(__file__, SIDES, [pair, weights], rounds).items()
            }
        row = "".join(f"{found[side]['ms']:15.0f} ms ({found[side]['detections']:3.0f})" for side in SIDES)
        ratios = (found["torchvision"]["ms"] / found[side]["ms"] for side in ("ours", "ours-bf16"))
        print(f"{pair:20}{row}" + "".join(f"{ratio:8.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
