"""Mask R-CNN in a crowd: one image of 1,000 × 1,000 pixels with 500 objects is trained on and predicted in, and the
most memory that the process held is printed; it has to stay under 4 GiB.

    python benchmarks/crowd_memory.py [BACKBONE]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from rcnn.process import tune_process

tune_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402

import rcnn  # noqa: E402
from rcnn.data.collate import collate  # noqa: E402
from rcnn.data.dataset import Truth  # noqa: E402
from rcnn.data.segments import run_lengths  # noqa: E402

SIDE, OBJECTS, LIMIT = 1000, 500, 4.0


def peak():
    """GiB that the process has held at most."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 2**30 if sys.platform == "darwin" else held / 2**20


def crowd(seed=0):
    """An image of bright discs on noise and its truth: cells under a microscope."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    boxes, segments = [], []
    for x, y, radius in zip(*rng.uniform(25, SIDE - 25, (2, OBJECTS)), rng.uniform(8, 22, OBJECTS), strict=True):
        x1, y1, x2, y2 = int(x - radius), int(y - radius), int(x + radius) + 1, int(y + radius) + 1
        ys, xs = np.mgrid[y1:y2, x1:x2] + 0.5
        disc = (xs - x) ** 2 + (ys - y) ** 2 < radius**2
        image[y1:y2, x1:x2][disc] = rng.integers(120, 255, 3)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[y1:y2, x1:x2] = disc
        boxes.append((x1, y1, x2, y2))
        segments.append(run_lengths(mask))
    none = np.zeros(OBJECTS, bool)
    return image, Truth(np.array(boxes, np.float32), np.zeros(OBJECTS, np.int64), none, none, segments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("backbone", nargs="?", default="resnet18-fpn")
    backbone = parser.parse_args().backbone
    image, truth = crowd()
    settings = {"image_size": [SIDE, SIDE], "box": {"detections": OBJECTS}}
    model = rcnn.create(f"mask-rcnn/{backbone}", ["cell"], settings=settings)
    batch = collate([torch.from_numpy(image).permute(2, 0, 1)], [truth], masks=True)
    print(f"mask-rcnn/{backbone}: {peak():.2f} GiB before the first step")

    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for step in range(2):
        began = time.perf_counter()
        losses = model.losses(batch)
        optimiser.zero_grad(set_to_none=True)
        sum(value for name, value in losses.items() if name.startswith("loss")).backward()
        optimiser.step()
        seconds = time.perf_counter() - began
        figures = f"{losses['foreground_rois'].item():.0f} positive RoIs, mask loss {losses['loss_mask'].item():.3f}"
        print(f"training step {step + 1}: {seconds:.1f} s, {figures}, {peak():.2f} GiB")

    began = time.perf_counter()
    found = model.predict(image, score=0.0)[0]
    entries = found.to_dict()["detections"]
    print(f"prediction: {time.perf_counter() - began:.1f} s, {len(entries)} masks as RLE, {peak():.2f} GiB")
    if len(entries) < OBJECTS or peak() > LIMIT:
        sys.exit(f"expected {OBJECTS} masks under {LIMIT} GiB")


if __name__ == "__main__":
    main()
