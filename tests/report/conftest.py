"""A believable run: a log, and images of rectangles with what a middling detector finds in them."""

from __future__ import annotations

import numpy as np
import pytest

from rcnn.data.dataset import Truth
from rcnn.evaluation import Prediction, evaluate, find_curves
from rcnn.report import Sample

HEIGHT, WIDTH = 120, 160


def make_metrics(steps=300):
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        fade = np.exp(-step / 80)
        row = {"step": step, "loss": 0.5 + 1.5 * fade + rng.normal(0, 0.1), "lr": 0.01, "images_per_second": 9.0}
        row |= {"loss_objectness": 0.2 + 0.5 * fade, "loss_box": 0.3 + fade}
        if step % 60 == 0:
            row |= {"val_loss": 0.7 + fade, "mAP": 0.6 * (1 - fade), "AP50": 0.9 * (1 - fade)}
        rows.append(row)
    return rows


def make_samples(classes, images=20, seed=0):
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(images):
        n = int(rng.integers(1, 5))
        corner = rng.uniform(0, 90, (n, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(15, 60, (n, 2))), 1).clip(0, [WIDTH, HEIGHT] * 2)
        labels = rng.integers(0, classes, n)
        image = rng.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        kept = rng.random(n) < 0.8
        found = np.concatenate((boxes[kept] + rng.normal(0, 2, (kept.sum(), 4)), [[5, 5, 30, 30]]))
        named = np.append(labels[kept], rng.integers(0, classes))
        none = np.zeros(n, bool)
        samples.append(
            Sample(
                image,
                Truth(np.float32(boxes), labels, none, none, [None] * n),
                Prediction(found, rng.uniform(0.3, 1, len(found)), named),
                f"image{index}.jpg",
            )
        )
    return samples


@pytest.fixture
def run_arguments():
    """The arguments of `write_run_report`, for the classes given."""

    def make(classes=("cat", "dog", "bird"), protocol="coco", images=20):
        samples = make_samples(len(classes), images)
        truths, predictions = [s.truth for s in samples], [s.prediction for s in samples]
        return {
            "metrics": make_metrics(),
            "result": evaluate(truths, predictions, classes, protocol=protocol),
            "curves": find_curves(truths, predictions, classes),
            "samples": samples,
            "recipe": 'system = "faster-rcnn/resnet18-fpn"\n[[stages]]\nname = "joint"\n',
            "environment": {"torch": "2.15", "device": "cpu"},
        }

    return make
