"""A detector small enough that a run of it takes a second, with everything that makes a run hard to repeat: dropout,
batch statistics, draws from the generator, a frozen part. As a program it trains itself: `python tiny.py DATA OUT …`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from rcnn import detectors
from rcnn.detectors import Detector, updated
from rcnn.structures import DetectionBatch
from rcnn.training import schemes

SYSTEM = "tiny/net"
SIDE = 16.0


@dataclass(frozen=True)
class TinyOptions:
    image_size: tuple[int, int] = (32, 64)
    width: int = 8


class Tiny(Detector):
    """Classifies each cell of 16 × 16 pixels; a cell is its own box."""

    def __init__(self, classes, options):
        super().__init__(SYSTEM, classes, options)
        self.frozen = nn.Conv2d(3, options.width, 3, stride=4, padding=1).requires_grad_(False)
        self.body = nn.Conv2d(options.width, options.width, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(options.width)
        self.dropout = nn.Dropout(0.2)
        self.score = nn.Conv2d(options.width, len(classes), 1)
        self.poison_at = -1  # after so many forward passes in training mode the loss is not a number
        self.passes = 0
        self.pause = 0.0  # seconds that a pass takes longer
        self.plain = False  # nothing random and no batch statistics: a loss is the mean of its images' losses

    def cells(self, images):
        maps = self.body(F.relu(self.frozen(images.pixels.float() / 255 - 0.5)))
        if self.plain:
            self.norm.eval()
            self.dropout.eval()
        maps = self.dropout(self.norm(maps))
        return self.score(F.relu(maps))  # [B, K, h, w]

    def losses(self, batch, generator=None, part=""):
        logits = self.cells(batch.images)
        target = torch.zeros_like(logits)
        for b in range(len(batch.images)):
            for box, label in zip(batch.truth.boxes[b], batch.truth.labels[b], strict=True):
                if label >= 0:
                    x, y = ((box[:2] + box[2:]) / 2 / SIDE).long().tolist()
                    target[b, label, min(y, logits.shape[2] - 1), min(x, logits.shape[3] - 1)] = 1
        noise = torch.rand(logits.shape, generator=generator, device=logits.device)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.plain:
            noise = torch.ones_like(noise)
        self.passes += self.training
        time.sleep(self.pause)
        if self.passes == self.poison_at:
            each = each * float("nan")
        return {
            "loss_cells": (each * noise).mean() * 10,
            "loss_size": 0.01 * logits.square().mean(),
            "hits": target.sum(),
        }

    def examine(self, images, proposals=None):
        scores = self.cells(images).sigmoid()  # [B, K, h, w]
        best, label = scores.flatten(2).max(1)  # [B, h·w]
        rows, columns = torch.meshgrid(torch.arange(scores.shape[2]), torch.arange(scores.shape[3]), indexing="ij")
        corner = torch.stack([columns, rows], -1).flatten(0, 1).float() * SIDE
        boxes = torch.cat([corner, corner + SIDE], 1).expand(len(images), -1, -1)
        order = best.argsort(1, descending=True)
        kept = best.gather(1, order)

        def pick(score=None, capacity=2048):
            return DetectionBatch(
                boxes.gather(1, order[..., None].expand(-1, -1, 4)),
                kept,
                torch.where(kept >= (score or 0), label.gather(1, order), -1),
                torch.zeros(len(images), dtype=torch.bool),
            )

        return pick


def install(**traits):
    """Makes `tiny/net` a system that `detectors.create` knows, its models having the traits given."""

    def create(name, classes, *, recipe="modern", weights=None, settings=None):
        model = Tiny(classes, updated(TinyOptions(), settings or {}))
        for trait, value in traits.items():
            setattr(model, trait, value)
        return model

    before = detectors.create, detectors.parse
    detectors.create, detectors.parse = create, lambda name: None
    schemes.SCHEMES.setdefault("tiny", {"joint": schemes.joint})
    return before


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = json.loads(sys.argv[1])
    install(**arguments.pop("traits", {}))
    from rcnn.errors import RCNNError
    from rcnn.training import train

    try:
        train(SYSTEM, **arguments)
    except RCNNError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
