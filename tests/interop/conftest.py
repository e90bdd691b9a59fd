"""Detectors of torchvision with random weights that behave: statistics taken from pictures, tens of detections each."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import as_tensor
from scipy.optimize import linear_sum_assignment

SHARED = Path(__file__).parents[3] / "shared" / "data"


def patterns(count=4, sizes=((150, 200), (200, 150), (170, 170), (128, 256)), seed=0):
    """Images uint8 [H, W, 3] of overlapping discs and stripes in noise."""
    random = np.random.default_rng(seed)
    images = []
    for height, width in (sizes * count)[:count]:
        y, x = np.mgrid[:height, :width]
        image = random.uniform(0, 255, 3) + 40 * np.sin(x / random.uniform(3, 20) + y / 9)[..., None]
        for _ in range(12):
            radius = random.uniform(6, 50)
            inside = np.hypot(x - random.uniform(0, width), y - random.uniform(0, height)) < radius
            image[inside] = random.uniform(0, 255, 3)
        images.append(np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8))
    return images


def theirs(model, image):
    """torchvision's detections of one image uint8 [H, W, 3], as numpy arrays; its labels begin at 0."""
    with torch.inference_mode():
        found = {key: value.numpy() for key, value in model([as_tensor(image)])[0].items()}
    found["labels"] = found["labels"] - 1
    return found


def compared(found, wanted):
    """How far our `Detections` lie from torchvision's of the same image.

    Ours and theirs of a class whose scores are within 1e-3 are paired so that boxes lie as near as they can all
    together: so detections of tied scores may stand in any order, and slivers at an image's edge beside one another.
    Pixels of a mask that lie on its edge to within
    1e-5, where rounding decides, are `ties`, counted and not compared.
    """
    figures = {"ours": len(found), "theirs": len(wanted["scores"]), "box": 0.0, "score": 0.0, "mask": 1.0, "ties": 0}
    masks = found.masks
    away = abs(found.boxes[:, None] - wanted["boxes"][None]).max(2)  # [ours, theirs] in px
    alike = (found.labels[:, None] == wanted["labels"]) & (abs(found.scores[:, None] - wanted["scores"]) < 1e-3)
    for d, other in zip(*linear_sum_assignment(np.where(alike, away, 1e6)), strict=True):
        if not alike[d, other]:
            figures["box"] = math.inf
            continue
        figures["box"] = max(figures["box"], float(away[d, other]))
        figures["score"] = max(figures["score"], float(abs(wanted["scores"][other] - found.scores[d])))
        if masks is not None:
            probability = wanted["masks"][other, 0]
            tied = abs(probability - 0.5) < 1e-5
            figures["ties"] += int(tied.sum())
            a, b = masks[d] & ~tied, (probability >= 0.5) & ~tied
            union = (a | b).sum()
            figures["mask"] = min(figures["mask"], float((a & b).sum() / union) if union else 1.0)
    return figures


def check(figures):
    """The acceptance: the same number, boxes within 0.01 px, scores within 1e-4, masks of IoU 0.999 or more."""
    assert figures["ours"] == figures["theirs"], json.dumps(figures)
    assert figures["box"] < 0.01, json.dumps(figures)
    assert figures["score"] < 1e-4, json.dumps(figures)
    assert figures["mask"] >= 0.999, json.dumps(figures)


@pytest.fixture(scope="session")
def photos():
    """Twenty photos of different sizes."""
    folder = SHARED / "voc2012_mini" / "JPEGImages"
    if not folder.is_dir():
        pytest.skip(f"needs the photos of {folder}")
    return sorted(folder.glob("*.jpg"))[::47][:20]


@pytest.fixture(scope="session")
def calibrate():
    """This module's functions."""
    return sys.modules[__name__]


@pytest.fixture(scope="session", name="patterns")
def patterns_fixture():
    """Four synthetic images uint8 [H, W, 3] of different sizes."""
    return patterns()


def _module(name):
    """A module beside this file, which holds no tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slow():
    """The module of independent forward passes, `slow.py`."""
    return _module("slow")


@pytest.fixture(scope="session")
def wire():
    """The module that writes Caffe's files, `wire.py`."""
    return _module("wire")


@pytest.fixture
def picture():
    """A smooth random picture uint8 RGB [3, H, W]: noise alone would average away in deep layers."""

    def make(height, width, seed=0):
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=rng)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        noise = torch.rand(1, 3, height, width, generator=rng)
        return ((0.8 * smooth + 0.2 * noise) * 255).to(torch.uint8)[0]

    return make


@pytest.fixture
def close():
    """Asserts that two tensors differ by at most 1e-4 of the largest value."""

    def check(found, expected, tolerance=1e-4):
        assert found.shape == expected.shape
        worst = (found - expected).abs().max() / expected.abs().max()
        assert worst <= tolerance, f"differs by {worst:.2g} of the largest value"

    return check
