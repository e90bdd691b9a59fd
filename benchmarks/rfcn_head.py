"""R-FCN's second stage against Faster R-CNN's on the same maps: `python benchmarks/rfcn_head.py [ROUNDS] [CHANNELS]`.

One image's map of stride 16 at 600 × 1000 pixels with CHANNELS (2048, ResNet-101's; 512 is ResNet-18's), 20 classes
and 300 RoIs. Faster R-CNN's head is RoIAlign 7 × 7 and two fully connected layers of 1024; R-FCN's are its 1×1
convolutions, once an image, and the pooling and votes of k = 3 and 7. Both run in this process, in turn, after a round
to warm up; the table holds medians in milliseconds of wall time, what an image costs beside its RoIs, and what the
RoIs cost.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from kernels import some_boxes

from rcnn.heads import BoxHead, BoxHeadOptions, PositionSensitiveHead, PSHeadOptions, SharedFC
from rcnn.pooling import PSPoolOptions, PSRoIPool, RoIAlign
from rcnn.process import tune_process

CLASSES, ROIS = 20, 300


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    tune_process()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    channels = int(sys.argv[2]) if len(sys.argv) > 2 else 2048
    torch.manual_seed(0)
    feature = torch.randn(1, channels, 38, 63).contiguous(memory_format=torch.channels_last)
    boxes, valid = some_boxes(ROIS, 600, 1000, 32, 400)[None], torch.ones(1, ROIS, dtype=torch.bool)
    trunk = SharedFC(channels * 49, (1024, 1024))
    box_head, align = BoxHead(trunk, 1024, CLASSES, BoxHeadOptions()).eval(), RoIAlign(7, [16])
    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "Faster R-CNN": (lambda: None, lambda: box_head(align([feature], boxes, valid)))
    }
    for size in (3, 7):
        head = PositionSensitiveHead(channels, CLASSES, PSRoIPool(PSPoolOptions(size=size), 16), PSHeadOptions())
        head = head.eval().to(memory_format=torch.channels_last)
        with torch.no_grad():
            maps = head.maps(feature)
        steps[f"R-FCN, k = {size}"] = (
            lambda head=head: head.maps(feature),
            lambda head=head, maps=maps: head(maps, boxes, valid),
        )
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, (image, regions) in steps.items():
                times[name].append((milliseconds(image), milliseconds(regions)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {channels} channels, {ROIS} RoIs")
    print(f"{'':20}{'image ms':>10}{'RoIs ms':>10}{'together':>10}")
    for name, pairs in times.items():
        image, regions = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
        print(f"{name:20}{image:10.1f}{regions:10.1f}{image + regions:10.1f}")


if __name__ == "__main__":
    main()
