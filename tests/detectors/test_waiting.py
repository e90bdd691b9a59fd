"""A training step and a detection never make the program wait for a GPU (CONTRIBUTING.md, second idea).

What waits there shows on a CPU too, in the operators that are called: a value that is read, a result whose size depends
on values, and a tensor made of Python's numbers, which is a copy from pageable memory. Shortcuts that ask on CPUs are
off, as in a compiled graph.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import rcnn
from rcnn.data.collate import collate
from rcnn.data.dataset import Truth
from rcnn.data.segments import run_lengths

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "lift_fresh", "is_nonzero"}
SMALL = {
    "image_size": [64, 96],
    "backbone": {"channels": 16},
    "anchors": {"sizes": [[16.0], [32.0], [64.0], [96.0], [128.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [100, 60], "samples": 64},
    "box": {"hidden": [32], "samples": 32},
}
C4 = {
    "image_size": [64, 96],
    "anchors": {"sizes": [[16.0, 32.0, 64.0]]},
    "rpn": {"pre_nms": [100, 60], "post_nms": [40, 20], "samples": 64, "channels": 32},
}
MODELS = {
    "faster-rcnn/resnet18-fpn": SMALL,
    "mask-rcnn/resnet18-fpn": {**SMALL, "mask": {"convs": [16], "deconv": 16}},
    "faster-rcnn/resnet18-c4": C4,
    "rfcn/resnet18": C4,
}


class Watch(TorchDispatchMode):
    """Notes the operators that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in WAITING or by_mask:
            self.seen.append(name)
        return operator(*args, **(kwargs or {}))


def batch_of(masks: bool):
    """Two images of noise with three round objects each, the second with padding."""
    rng = np.random.default_rng(0)
    images, truths = [], []
    for width in (96, 70):
        ys, xs = np.mgrid[:64, :width] + 0.5
        images.append(torch.from_numpy(rng.integers(0, 256, (3, 64, width), dtype=np.uint8)))
        centres = rng.uniform(20, 44, (3, 2))
        boxes = np.concatenate((centres - 12, centres + 12), 1).astype(np.float32)
        drawn = [run_lengths((xs - x) ** 2 + (ys - y) ** 2 < 144) for x, y in centres]
        none = np.zeros(3, bool)
        truths.append(Truth(boxes, rng.integers(0, 3, 3), none, none, drawn))
    return collate(images, truths, ["x", "y"], masks=masks)


@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("name", MODELS)
def test_neither_losses_nor_detections_wait_for_a_gpu(monkeypatch, name, recipe):
    torch.manual_seed(0)
    model = rcnn.create(name, ["cat", "dog", "cow"], recipe=recipe, settings=MODELS[name])
    batch, generator = batch_of(name.startswith("mask")), torch.Generator().manual_seed(0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with Watch() as watch:
        losses = model.losses(batch, generator)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    assert watch.seen == []
    with Watch() as watch, torch.no_grad():
        model.detect(batch.images, score=0.05)
    assert watch.seen == []


def test_what_waits_is_seen():
    values = torch.arange(4.0)
    with Watch() as watch:
        _ = values[values > 1], values.max().item(), torch.tensor([1.0]), (values > 1).nonzero()
        _ = values[torch.zeros(1, dtype=torch.int64)]
    assert sorted(set(watch.seen)) == ["_local_scalar_dense", "index", "lift_fresh", "nonzero"]
