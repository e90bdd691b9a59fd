"""COCO's figures against pycocotools: `python benchmarks/evaluation.py [ROUNDS] [IMAGES]`.

80 classes, seven objects and 100 detections an image, a third of which lie on objects. Both sides begin with what a
detector gives, arrays image by image, and end with the twelve figures; pycocotools gets its dictionaries made for it
before the clock starts. The largest difference of the figures is printed.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from typing import Any

import numpy as np
from processes import processor
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rcnn.data.dataset import Truth
from rcnn.evaluation import Prediction, evaluate

CLASSES, OBJECTS, DETECTIONS, SIDE = 80, 7, 100, 640
FIGURES = ("mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def scene(images: int) -> tuple[list[Truth], list[Prediction]]:
    """Objects and detections of random images; the detections on objects are off by a tenth of their size."""
    random = np.random.default_rng(0)
    truths, found = [], []
    for _ in range(images):
        size = np.exp(random.uniform(np.log(12), np.log(400), (OBJECTS, 2)))
        corner = random.uniform(0, 1, (OBJECTS, 2)) * (SIDE - size)
        boxes = np.concatenate((corner, corner + size), 1).round(1).astype(np.float32)
        labels = random.integers(0, CLASSES, OBJECTS)
        no = np.zeros(OBJECTS, bool)
        truths.append(Truth(boxes, labels, no, no, [None] * OBJECTS))
        on = random.integers(0, OBJECTS, DETECTIONS // 3)
        near = boxes[on] + 0.1 * np.tile(size[on], 2) * random.normal(size=(len(on), 4))
        far = random.uniform(0, SIDE / 2, (DETECTIONS - len(on), 2))
        rest = np.concatenate((far, far + random.uniform(10, SIDE / 2, far.shape)), 1)
        classes = np.concatenate((labels[on], random.integers(0, CLASSES, len(rest))))
        corners = np.concatenate((near, rest))
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        found.append(Prediction(corners.round(1), random.uniform(0, 1, DETECTIONS), classes))
    return truths, found


def as_coco(truths: list[Truth], found: list[Prediction]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as pycocotools wants it."""
    annotations, detections = [], []
    for k, (truth, prediction) in enumerate(zip(truths, found, strict=True), 1):
        for (x1, y1, x2, y2), label in zip(truth.boxes.astype(float).round(1).tolist(), truth.labels, strict=True):
            box, area = [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)], (x2 - x1) * (y2 - y1)
            ids = {"id": len(annotations) + 1, "image_id": k, "category_id": int(label) + 1}
            annotations.append({**ids, "bbox": box, "area": area, "iscrowd": 0})
        rows = zip(prediction.boxes.tolist(), prediction.scores.tolist(), prediction.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            ids = {"image_id": k, "category_id": label + 1}
            detections.append({**ids, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    frame = {
        "info": {},
        "images": [{"id": k + 1, "height": SIDE, "width": SIDE} for k in range(len(truths))],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)],
    }
    return {**frame, "annotations": annotations}, detections


def theirs(frame: dict[str, Any], detections: list[dict[str, Any]]) -> np.ndarray:
    """pycocotools' twelve figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = frame
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def main() -> None:
    """Prints the table."""
    words = [int(word) for word in sys.argv[1:]]
    rounds, images = words[0] if words else 3, words[1] if words[1:] else 1000
    truths, found = scene(images)
    frame, detections = as_coco(truths, found)
    names, times, figures = [str(k) for k in range(CLASSES)], ([], []), [np.empty(0), np.empty(0)]
    for _ in range(rounds):
        start = time.perf_counter()
        result = evaluate(truths, found, names)
        times[0].append(time.perf_counter() - start)
        figures[0] = np.array(
            [{"mAP": result.mAP, "AP50": result.AP50, "AP75": result.AP75, **result.extra}[n] for n in FIGURES]
        )
        start = time.perf_counter()
        figures[1] = theirs(frame, detections)
        times[1].append(time.perf_counter() - start)
    ours, peer = (statistics.median(each) for each in times)
    print(f"{processor()}; {images} images")
    print(f"ours {ours:.2f} s, pycocotools {peer:.2f} s, ratio {peer / ours:.1f}")
    print(f"largest difference of the twelve figures: {abs(figures[0] - figures[1]).max():.1e}")


if __name__ == "__main__":
    main()
