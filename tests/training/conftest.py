from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn import detectors
from rcnn.training import SCHEMES

HERE = Path(__file__).parent
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="session")
def tiny_module():
    spec = importlib.util.spec_from_file_location("tiny", HERE / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tiny_module):
    """`tiny(poison_at=3)` makes the small system `tiny/net` known for the length of a test, with these traits."""
    before = detectors.create, detectors.parse
    tiny_module.install()
    yield tiny_module.install
    detectors.create, detectors.parse = before
    del SCHEMES["tiny"]


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """A YOLO data set of 10 images to train on and 4 to validate on, of coloured squares; one image has none."""
    root = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for index in range(count):
            pixels = random.integers(90, 160, (48, 64, 3), dtype=np.uint8)
            lines = []
            for _ in range(index % 3):
                label = int(random.integers(2))
                x, y = int(random.integers(0, 44)), int(random.integers(0, 28))
                pixels[y : y + 20, x : x + 20] = list(COLOURS.values())[label]
                lines.append(f"{label} {(x + 10) / 64} {(y + 10) / 48} {20 / 64} {20 / 48}")
            for folder, name in (("images", f"{index}.png"), ("labels", f"{index}.txt")):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                if folder == "images":
                    Image.fromarray(pixels).save(root / folder / split / name)
                else:
                    (root / folder / split / name).write_text("\n".join(lines))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [red, blue]\n")
    return root


@pytest.fixture
def start():
    """Starts a process that trains `tiny/net`; gives its Popen. Keyword arguments are those of `training.train`."""
    started = []

    def begin(**arguments):
        words = [sys.executable, str(HERE / "tiny.py"), json.dumps(arguments, default=str)]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
