"""Truths made of plain lists, and the golden files of other evaluators beside the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rcnn.data.dataset import Truth
from rcnn.evaluation.columns import Prediction

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden"


def make_truth(boxes=(), labels=(), difficult=None, crowd=None, segments=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    none = np.zeros(len(boxes), bool)
    return Truth(
        boxes=boxes,
        labels=np.asarray(labels, np.int64).reshape(-1),
        difficult=none if difficult is None else np.asarray(difficult, bool),
        crowd=none if crowd is None else np.asarray(crowd, bool),
        segments=[None] * len(boxes) if segments is None else segments,
    )


def make_prediction(boxes=(), scores=(), labels=None, masks=None):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    return Prediction(boxes, np.asarray(scores, np.float64).reshape(-1), labels, masks)


@pytest.fixture
def truth():
    return make_truth


@pytest.fixture
def prediction():
    return make_prediction


@pytest.fixture
def random_data():
    """Images with difficult and crowd objects, jittered, doubled and wrong predictions, and tied scores."""

    def make(seed=0, images=40, classes=4, crowds=True):
        rng = np.random.default_rng(seed)
        truths, predictions = [], []
        for _ in range(images):
            n = int(rng.integers(0, 9))
            corner = rng.uniform(0, 300, (n, 2))
            boxes = np.concatenate((corner, corner + rng.uniform(8, 150, (n, 2))), 1)
            labels = rng.integers(0, classes, n)
            crowd = (rng.random(n) < 0.1) & crowds
            truths.append(make_truth(boxes, labels, rng.random(n) < 0.15, crowd))
            pick = rng.integers(0, max(n, 1), 2 * n)
            found = np.float32(boxes[pick] + rng.normal(0, 6, (2 * n, 4))) if n else np.zeros((0, 4))
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
            noise = rng.uniform(0, 300, (3, 2))
            found = np.concatenate((found, np.concatenate((noise, noise + 40), 1)))
            named = np.concatenate((labels[pick] if n else [], rng.integers(0, classes, 3))).astype(np.int64)
            flip = rng.random(len(named)) < 0.1
            named[flip] = rng.integers(0, classes, flip.sum())
            predictions.append(make_prediction(found, rng.random(len(found)).round(1), named))
        return truths, predictions, [f"class{i}" for i in range(classes)]

    return make


@pytest.fixture
def golden():
    """Gives a folder of golden files by name; skips where they are not beside the repository."""

    def folder(name):
        if not (GOLDEN / name).is_dir():
            pytest.skip(f"no golden files {name} beside the repository")
        return GOLDEN / name, json.loads((GOLDEN / name / "expected.json").read_text())

    return folder


@pytest.fixture
def coco_files():
    """Truths, predictions, classes and sizes of a COCO annotation file and a COCO result file."""

    def read(annotations, results):
        data = json.loads(Path(annotations).read_text())
        classes = {c["id"]: i for i, c in enumerate(sorted(data["categories"], key=lambda c: c["id"]))}
        truths, predictions = {}, {}
        images = sorted(data["images"], key=lambda image: image["id"])  # the order in which COCO breaks ties of score
        for image in images:
            truths[image["id"]], predictions[image["id"]] = [], []
        for a in data["annotations"]:
            truths[a["image_id"]].append(a)
        for a in json.loads(Path(results).read_text()):
            predictions[a["image_id"]].append(a)

        def corners(rows):
            b = np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4)
            return np.concatenate((b[:, :2], b[:, :2] + b[:, 2:]), 1)

        def labels(rows):
            return [classes[r["category_id"]] for r in rows]

        names = [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])]
        return (
            [
                make_truth(
                    corners(t), labels(t), crowd=[a["iscrowd"] for a in t], segments=[a.get("segmentation") for a in t]
                )
                for t in truths.values()
            ],
            [
                make_prediction(
                    corners(p),
                    [a["score"] for a in p],
                    labels(p),
                    [a["segmentation"] for a in p] if all("segmentation" in a for a in p) else None,
                )
                for p in predictions.values()
            ],
            names,
            [(image["height"], image["width"]) for image in images],
        )

    return read
