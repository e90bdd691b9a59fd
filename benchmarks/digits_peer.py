"""Is `digits` a fair judge? torchvision's Faster R-CNN on the demo's data, steps and schedule.

`python benchmarks/digits_peer.py [STEPS]` trains torchvision's detector (ResNet-18 with a pyramid, batch norm, random
start, 64-channel maps of strides 4, 8 and 16) on the very batches that `rcnn demo` sees, and prints COCO's figures on
val. The rest is torchvision's default. Not part of the suite: it takes some minutes.
"""

from __future__ import annotations

import itertools
import math
import sys
import time

import torch
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from rcnn.cli.demo import SYSTEM
from rcnn.data import Augmentation, TrainLoader, open_dataset
from rcnn.evaluation import Prediction, evaluate
from rcnn.process import tune_process
from rcnn.training.recipe import resolve

RECIPE = resolve([{"system": SYSTEM, "data": {"path": "digits"}}])
TRAIN, MODEL = RECIPE.train, RECIPE.model


def peer(classes: int) -> FasterRCNN:
    """torchvision's detector with the demo's pyramid, anchors and head width."""
    layers = {"layer1": "0", "layer2": "1", "layer3": "2"}
    body = BackboneWithFPN(resnet18(), layers, [64, 128, 256], MODEL["backbone"]["channels"], None)
    body.fpn.extra_blocks = None
    short, long = MODEL["image_size"]
    sizes = tuple(tuple(level) for level in MODEL["anchors"]["sizes"])
    return FasterRCNN(
        body,
        classes + 1,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_batch_size_per_image=MODEL["box"]["samples"],
        box_positive_fraction=MODEL["box"]["positive_fraction"],
    )


def main(steps: int | None) -> None:
    """Trains, judges and prints."""
    tune_process()
    torch.manual_seed(0)
    train, val = open_dataset("digits", "train"), open_dataset("digits", "val")
    short, long = MODEL["image_size"]
    settings = {"short": short, "long": long, "batch_size": TRAIN.batch_size, "seed": 0, "workers": 1}
    loader = TrainLoader(train, augmentation=Augmentation.none(), **settings)
    steps = steps or round(TRAIN.epochs * loader.steps_per_epoch)
    model = peer(len(train.classes)).train()
    rate = TRAIN.lr
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    warmup = min(100, steps // 5)
    started = time.time()
    for step, batch in enumerate(itertools.islice(loader.batches(), steps)):
        rise = step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        optimiser.param_groups[0]["lr"] = rate * max(rise, 0.01)
        images, targets = [], []
        for pixels, (height, width), boxes, labels in zip(
            batch.images.pixels, batch.images.sizes.long(), batch.truth.boxes, batch.truth.labels, strict=True
        ):
            images.append(pixels[:, :height, :width] / 255)
            targets.append({"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1})
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            loss = sum(model(images, targets).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        if step % 50 == 49:
            print(f"{step + 1} of {steps}: loss {loss.item():.3f}, {(time.time() - started) / (step + 1):.2f} s a step")
    seconds = time.time() - started
    model.eval()
    predictions = []
    with torch.inference_mode():
        for i in range(len(val)):
            found = model([torch.from_numpy(val.image(i).copy()).permute(2, 0, 1) / 255])[0]
            predictions.append(Prediction(found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1))
    result = evaluate([val.truth(i) for i in range(len(val))], predictions, val.classes)
    print(f"torchvision: AP {result.mAP:.3f}, AP50 {result.AP50:.3f} after {steps} steps in {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
