"""Runs of several stages, killed with -9 wherever they happen to be: searching, extracting, fitting or learning."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rcnn.training import train

PROGRAM = "import json, sys; from rcnn.training import train; train(**json.loads(sys.argv[1]))"
TRAINING = {"train.eval_every": 0, "train.checkpoint_every": 0, "train.workers": 0}
PROPOSING = {
    "model.image_size": [32, 48],
    "model.backbone.norm": "batch",
    "model.backbone.channels": 8,
    "model.backbone.levels": [8, 16],
    "model.anchors.sizes": [[16.0], [24.0]],
    "model.rpn.pre_nms": [20, 10],
    "model.rpn.post_nms": [20, 10],
    "model.box.hidden": [8],
    "model.box.samples": 8,
}
REGIONS = {"model.regions.mode": "single", "model.regions.min_side": 4.0}
RUNS = {
    ("faster-rcnn/resnet18-fpn", "four-step"): PROPOSING,
    ("faster-rcnn/resnet18-fpn", "alternating"): PROPOSING,
    ("rcnn/resnet18", None): {**REGIONS, "model.warp.size": 32},
    ("sppnet/resnet18", None): {**REGIONS, "model.hidden": [8, 8], "model.image_size": [48, 64], "model.warp.size": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize(("system", "scheme"), RUNS)
def test_a_run_killed_at_any_time_ends_with_the_same_bits(squares, tmp_path, monkeypatch, system, scheme):
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    words = {"data": str(squares), "scheme": scheme, "steps": 2, "batch_size": 2, "seed": 1}
    words["settings"] = {**RUNS[system, scheme], **TRAINING}
    start = time.monotonic()
    train(system, out=tmp_path / "whole", quiet=True, **words)
    took = time.monotonic() - start
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "another"))
    run, random = tmp_path / "run", np.random.default_rng()
    for attempt in range(4):
        asked = {"out": str(run), "resume": True} if attempt else {"system": system, "out": str(run), **words}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(asked)], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not (run / "recipe.toml").exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(random.uniform(0, took))
        process.kill()
        process.wait()
    train(out=run, resume=True, quiet=True)
    expected, found = (load_file(folder / "last" / "model.safetensors") for folder in (tmp_path / "whole", run))
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
