"""Training steps against torchvision's: `python benchmarks/training.py [ROUNDS] [BACKBONE…]`.

Faster R-CNN on two images of 512 × 512 with eight objects each, 90 classes, frozen batch norm and the first stages
frozen in both, by the recipe of torchvision's detectors: 2,000 proposals, 512 regions an image. A step is forward,
backward and SGD; old gradients go where each side's own training loop drops them, torchvision's after the forward pass,
ours before it. Sides, each in its own process: torchvision as it is, torchvision with our allocator settings, ours in
fp32 and in bf16. The second number is the peak of resident memory less what was resident before the first step, in MiB.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from processes import alternate, medians, processor
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from rcnn.process import tune_process

SIDES = ("torchvision", "torchvision+allocator", "ours", "ours-bf16")
BACKBONES = ("resnet18-fpn", "mobilenetv3-fpn")
BATCH, STEPS, WARM_UP = 2, 6, 2


@dataclass(frozen=True)
class Load:
    """What a step has to do: square images of `side` pixels with `objects` each, K classes, `regions` of an image."""

    side: int = 512
    objects: int = 8
    classes: int = 90
    regions: int = 512


def scene(load: Load) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels uint8 [B, 3, H, W], boxes [B, G, 4] and labels [B, G]."""
    torch.manual_seed(0)
    side, objects = load.side, load.objects
    sides = 24 + (0.4 * side - 4.8) * torch.rand(BATCH, objects, 2)
    corner = torch.rand(BATCH, objects, 2) * (side - sides)
    coarse = torch.rand(BATCH, 3, side // 16, side // 16) * 255
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return pixels, torch.cat((corner, corner + sides), 2), torch.randint(load.classes, (BATCH, objects))


def theirs(backbone: str, load: Load) -> Callable[[], None]:
    """A training step of torchvision's detector."""
    size = {"min_size": load.side, "max_size": load.side, "box_batch_size_per_image": load.regions}
    if backbone == "resnet18-fpn":
        body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
        model = FasterRCNN(body, load.classes + 1, **size)
    else:
        model = fasterrcnn_mobilenet_v3_large_fpn(
            weights=None, weights_backbone=None, num_classes=load.classes + 1, trainable_backbone_layers=3, **size
        )
    pixels, boxes, labels = scene(load)
    images = [one / 255 for one in pixels]
    targets = [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)]
    optimiser = torch.optim.SGD([p for p in model.train().parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def step() -> None:
        loss = sum(model(images, targets).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def ours(backbone: str, precision: str, load: Load) -> Callable[[], None]:
    """A training step of ours, with the settings that torchvision's detector has."""
    import rcnn
    from rcnn.structures import Batch, GroundTruth, ImageBatch

    mobile = {"levels": "torchvision"} if backbone == "mobilenetv3-fpn" else {}
    anchors = {"sizes": [[32.0, 64.0, 128.0, 256.0, 512.0]]} if mobile else {}
    settings = {
        "image_size": [load.side, load.side],
        "backbone": {"norm": "frozen", "frozen_stages": 3 if mobile else 2, **mobile},
        "anchors": anchors,
        "box": {"samples": load.regions},
    }
    model = rcnn.create(f"faster-rcnn/{backbone}", [str(k) for k in range(load.classes)], settings=settings).train()
    model.precision = precision  # type: ignore[assignment]
    pixels, boxes, labels = scene(load)
    flags = torch.zeros(BATCH, load.objects, dtype=torch.bool)
    truth = GroundTruth(boxes, labels, flags)
    batch = Batch(ImageBatch(pixels, torch.full((BATCH, 2), float(load.side))), truth, ("a", "b"))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        with model.autocast():
            losses = model(batch)
        loss = sum(value for name, value in losses.items() if name.startswith("loss"))
        loss.backward()
        optimiser.step()

    return step


def memory(field: str) -> float:
    """A line of this process's status, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1024


def measure(side: str, backbone: str, load: Load = Load()) -> None:
    """Prints the milliseconds of each step after the first ones, and the growth of memory."""
    if side != "torchvision":
        tune_process()
    if side.startswith("torch"):
        step = theirs(backbone, load)
    else:
        step = ours(backbone, "bf16" if side.endswith("bf16") else "fp32", load)
    before, times = memory("VmRSS"), []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"ms": times[WARM_UP:], "MiB": [memory("VmHWM") - before]}))


def main() -> None:
    """Prints the table, or one side's line."""
    words = sys.argv[1:]
    if words and words[0] in SIDES:
        measure(*words)
        return
    rounds = int(words[0]) if words else 3
    print(processor())
    print(f"{'':18}" + "".join(f"{side:>26}" for side in SIDES) + f"{'fp32':>8}{'bf16':>8}{'memory':>8}")
    for backbone in words[1:] or BACKBONES:
        found = {side: medians(times) for side, times in alternate(__file__, SIDES, [backbone], rounds).items()}
        row = "".join(f"{found[side]['ms']:13.0f} ms {found[side]['MiB']:5.0f} MiB" for side in SIDES)
        stock, fp32, bf16 = (found[side] for side in ("torchvision", "ours", "ours-bf16"))
        ratios = f"{stock['ms'] / fp32['ms']:8.2f}{stock['ms'] / bf16['ms']:8.2f}{fp32['MiB'] / stock['MiB']:8.2f}"
        print(f"{backbone:18}{row}{ratios}", flush=True)


if __name__ == "__main__":
    main()
