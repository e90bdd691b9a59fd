"""The kernels against torchvision's operators: `python benchmarks/kernels.py [--device cuda] [ROUNDS] [NAME…]`.

Both run in this process, in turn (A B A B …), after one round to warm up; the table holds medians in milliseconds of
wall time and their ratio. On a busy machine take OMP_NUM_THREADS=1, and the threads' gain from a quiet one.
On a GPU each call is timed until the GPU is done with it.
Features lie channels-last for the kernels and contiguous for torchvision, each as it likes them best, and torchvision
gets RoIs already in its own form. Results are compared once, and the largest difference is printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torchvision.models.detection._utils import Matcher

from rcnn import kernels
from rcnn.process import tune_process

Case = tuple[str, Callable[[], Any], Callable[[], Any]]


def some_boxes(count: int, height: int, width: int, smallest: float, largest: float) -> torch.Tensor:
    """Boxes [count, 4] inside an image, sides spread evenly over octaves."""
    low, high = torch.tensor([smallest, largest]).log()
    size = torch.exp(low + (high - low) * torch.rand(count, 1)) * torch.exp(0.4 * torch.randn(count, 2))
    centre = torch.rand(count, 2) * torch.tensor([width, height])
    limit = torch.tensor([width, height, width, height])
    return torch.cat((centre - size / 2, centre + size / 2), 1).clamp(min=0).minimum(limit)


def roi_cases() -> Iterator[Case]:
    """RoIAlign and RoIPool, forward and backward."""
    torch.manual_seed(0)
    for channels, size, sampling, stride, largest in ((256, 7, 2, 4, 112), (1024, 7, 0, 16, 500), (256, 14, 2, 4, 112)):
        feature = torch.randn(1, channels, 800 // stride, 1088 // stride)
        last = feature.contiguous(memory_format=torch.channels_last)
        boxes = some_boxes(1000, 800, 1088, 16, largest)
        levels = torch.zeros(1, 1000, dtype=torch.int64)
        rois = torch.cat((torch.zeros(1000, 1), boxes), 1)
        options = {"strides": [stride], "size": size, "sampling_ratio": sampling}
        name = f"roi_align C{channels} {size}×{size} samples {sampling or 'adaptive'}"

        def ours(feature: torch.Tensor, boxes=boxes, levels=levels, options=options) -> torch.Tensor:
            return kernels.roi_align([feature], boxes[None], levels, **options)[0]

        def theirs(feature, rois=rois, size=size, stride=stride, sampling=sampling) -> torch.Tensor:
            return torchvision.ops.roi_align(feature, rois, size, 1 / stride, sampling or -1, aligned=True)

        yield name, lambda last=last, ours=ours: ours(last), lambda feature=feature, theirs=theirs: theirs(feature)
        yield name + " backward", backward(ours, last), backward(theirs, feature)
    feature = torch.randn(1, 512, 38, 50)
    last = feature.contiguous(memory_format=torch.channels_last)
    boxes = some_boxes(2000, 600, 800, 32, 400)
    levels = torch.zeros(1, 2000, dtype=torch.int64)
    rois = torch.cat((torch.zeros(2000, 1), boxes), 1)

    def ours(feature: torch.Tensor) -> torch.Tensor:
        return kernels.roi_pool([feature], boxes[None], levels, strides=[16], size=7)[0]

    def theirs(feature: torch.Tensor) -> torch.Tensor:
        return torchvision.ops.roi_pool(feature, rois, 7, 1 / 16)

    yield "roi_pool C512 7×7, 2000 RoIs", lambda: ours(last), lambda: theirs(feature)
    yield "roi_pool C512 7×7, 2000 RoIs backward", backward(ours, last), backward(theirs, feature)


def position_sensitive_cases() -> Iterator[Case]:
    """Position-sensitive pooling of 300 RoIs for 81 classes and 7 × 7 bins, each side from its own channel order."""
    torch.manual_seed(0)
    theirs = torch.randn(1, 81 * 49, 38, 63)
    last = kernels.from_caffe_order(theirs[0], 7)[None].contiguous(memory_format=torch.channels_last)
    boxes, valid = some_boxes(300, 600, 1000, 32, 400), torch.ones(1, 300, dtype=torch.bool)
    rois = torch.cat((torch.zeros(300, 1), boxes), 1)
    for rule in ("torchvision", "align"):

        def ours(feature: torch.Tensor, rule=rule) -> torch.Tensor:
            return kernels.ps_roi_pool(feature, boxes[None], valid, stride=16, size=7, rule=rule)[0]

        def peer(feature: torch.Tensor, rule=rule) -> torch.Tensor:
            if rule == "align":
                return torchvision.ops.ps_roi_align(feature, rois, 7, 1 / 16, 2)
            return torchvision.ops.ps_roi_pool(feature, rois, 7, 1 / 16)

        name = f"ps_roi_{'align' if rule == 'align' else 'pool'} 81×7×7, 300 RoIs"
        yield name, lambda ours=ours: ours(last), lambda peer=peer: peer(theirs)
        peer_backward = backward(peer, theirs)
        # Flat, and so not compared: each side's gradient is in its own channel order.
        yield name + " backward", backward(ours, last), lambda run=peer_backward: run().flatten()


def backward(pool: Callable[[torch.Tensor], torch.Tensor], feature: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Only the backward pass of a pooling function."""
    leaf = feature.clone().requires_grad_()
    pooled = pool(leaf)
    given = torch.randn(pooled.shape, generator=torch.Generator(pooled.device).manual_seed(1))
    return lambda: torch.autograd.grad(pooled, leaf, given, retain_graph=True)[0]


def nms_cases() -> Iterator[Case]:
    """NMS: one group, many classes, and with the capacity of a proposal stage."""
    torch.manual_seed(0)
    for count, capacity in ((1000, 1000), (2000, 2000), (6000, 6000), (12000, 12000), (12000, 1000)):
        boxes, scores = some_boxes(count, 800, 1088, 16, 500), torch.rand(count)
        yield (
            f"nms {count} → {capacity}",
            lambda b=boxes, s=scores, c=capacity: ours_nms(b, s, None, 0.7, c),
            lambda b=boxes, s=scores, c=capacity: torchvision.ops.nms(b, s, 0.7)[:c],
        )
    for count in (1000, 3000, 20000):
        boxes, scores, classes = some_boxes(count, 800, 1088, 16, 500), torch.rand(count), torch.randint(80, (count,))
        yield (
            f"nms {count}, 80 classes",
            lambda b=boxes, s=scores, g=classes, n=count: ours_nms(b, s, g, 0.5, n),
            lambda b=boxes, s=scores, g=classes: torchvision.ops.batched_nms(b, s, g, 0.5),
        )


def ours_nms(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor | None, threshold: float, capacity: int
) -> torch.Tensor:
    """The kept boxes of one image, with torchvision's shape of result."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    group = None if groups is None else groups[None]
    index, count = kernels.nms(boxes[None], scores[None], valid, group, threshold=threshold, capacity=capacity)
    return index[0, : int(count)]


def match_cases() -> Iterator[Case]:
    """IoU and matching of 200,000 anchors with 20 and 100 objects."""
    torch.manual_seed(0)
    anchors = some_boxes(200_000, 800, 1088, 16, 500)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    for count in (20, 100):
        truth = some_boxes(count, 800, 1088, 16, 500)
        real = torch.ones(1, count, dtype=torch.bool)

        def ours(truth=truth, real=real) -> torch.Tensor:
            overlap, index, best = kernels.match(anchors[None], truth[None], real)
            kept = best | (overlap >= 0.7)
            return torch.where(kept, index, torch.where(overlap < 0.3, -1, -2))[0]

        def theirs(truth=truth) -> torch.Tensor:
            return matcher(torchvision.ops.box_iou(truth, anchors))

        yield f"match 200,000 × {count}", ours, theirs


def finish() -> None:
    """Waits for the GPU, if it is one that runs."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def measure(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Medians in milliseconds, taken in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_number in range(rounds + 1):
        for which, function in enumerate((ours, theirs)):
            start = time.perf_counter()
            function()
            finish()
            if round_number:
                times[which].append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Prints the table."""
    tune_process()  # as our command line does; it spares both sides the page faults of large results
    words = sys.argv[1:]
    if words[:1] == ["--device"]:
        torch.set_default_device(words[1])
        words = words[2:]
    rounds = int(words[0]) if words else 7
    wanted = words[1:]
    device = torch.get_default_device()
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    form = kernels.form(device.type).__name__
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {where}, {form}")
    print(f"{'':44}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}  largest difference")
    for cases in (roi_cases, position_sensitive_cases, nms_cases, match_cases):
        for name, ours, theirs in cases():
            if wanted and not any(word in name for word in wanted):
                continue
            a, b = ours(), theirs()
            gap = (a.double() - b.double()).abs().max().item() if a.shape == b.shape else float("nan")
            mine, peer = measure(ours, theirs, rounds)
            print(f"{name:44}{mine:9.2f}{peer:9.2f}{peer / mine:8.1f}  {gap:.1e}", flush=True)


if __name__ == "__main__":
    main()
