"""Runs Triton's kernels on the CPU by Triton's interpreter, or on a GPU, and holds each against plain torch.

A program of its own, since the interpreter must be asked for before Triton is imported, which torch.compile does in
other tests. `python interpreted.py [CASE…]` prints JSON: by how much the largest difference of each case is beyond what
it may be, and what the case took. With RCNN_TEST_DEVICE=cuda they are compiled and run there.
"""

# ruff: noqa: E402

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

DEVICE = os.environ.get("RCNN_TEST_DEVICE", "cpu")
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton.language as tl
from torch.utils._pytree import tree_map_only

from rcnn.kernels import cuda as triton_form
from rcnn.kernels import reference
from rcnn.kernels.cuda import nms as nms_file

AWKWARD = torch.tensor(
    [
        [10.0, 10, 11, 11],  # one pixel
        [20, 20, 20, 20],  # empty
        [0, 0, 0, 0],
        [40, 30, 20, 10],  # inside out
        [-20, -16, 15, 15],  # partly outside
        [25, 30, 90, 100],
        [-90, -90, -20, -20],  # outside
        [500, 500, 600, 600],
        [0, 0, 52, 36],  # all of it
        [-100, -100, 200, 200],
        [2, 6, 10, 26],  # corners that lie halfway between the pixels of a stride of 4
    ]
)
STRIDES = [4.0, 8.0]
SIDES = [[9, 5], [13, 7]]  # no multiple of a tile


class _Cuda:
    """Triton's form on tensors of the CPU: they go to the device, and the results come back."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(triton_form, name)

        def call(*arguments: Any) -> Any:
            there = tree_map_only(torch.Tensor, lambda t: t.to(DEVICE), arguments)
            return tree_map_only(torch.Tensor, lambda t: t.cpu(), function(*there))

        return call


cuda = _Cuda()
Compared = Iterator[tuple[torch.Tensor, torch.Tensor, float]]  # found, expected, how far apart they may be


def scene(channels: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[list, torch.Tensor, torch.Tensor]:
    """Two maps of two images, boxes [2, 7, 4] of all kinds, and their levels: some are padding."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, channels, h, w, generator=generator).to(dtype) for h, w in zip(*SIDES, strict=True)]
    corner = torch.rand(3, 2, generator=generator) * 50 - 10
    boxes = torch.cat((corner, corner + torch.rand(3, 2, generator=generator) * 30), -1)
    boxes = torch.cat((AWKWARD, boxes))[torch.randperm(14, generator=generator)].view(2, 7, 4)
    return maps, boxes, torch.tensor([0, 1, 0, -1, 1, 0, 1]).expand(2, -1)


def roi_align(channels: int, size: int, sampling_ratio: int, aligned: bool) -> Compared:
    maps, boxes, levels = scene(channels, seed=channels)
    options = (STRIDES, size, sampling_ratio, aligned)
    found = cuda.roi_align(maps, boxes, levels, *options)
    yield found, reference.roi_align(maps, boxes, levels, *options), 1e-4
    given = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    arguments = (given, boxes, levels, *SIDES, STRIDES, sampling_ratio, aligned)
    forms = (cuda.roi_align_backward(*arguments), reference.roi_align_backward(*arguments))
    for mine, theirs in zip(*forms, strict=True):
        assert mine.is_contiguous(memory_format=torch.channels_last)
        yield mine, theirs, 1e-4


def roi_pool(channels: int, size: int, rois: int = 7) -> Compared:
    maps, boxes, levels = scene(channels, seed=channels)
    boxes, levels = boxes[:, -rois:], levels[:, -rois:]
    maps = [m.round() for m in maps]  # ties: the first of equals gets the gradient
    found = cuda.roi_pool(maps, boxes, levels, STRIDES, size)
    yield found, reference.roi_pool(maps, boxes, levels, STRIDES, size), 0
    given = torch.randint(-8, 9, found.shape, generator=torch.Generator().manual_seed(1)).float()  # sums are exact
    arguments = (given, maps, boxes, levels, STRIDES)
    for mine, theirs in zip(cuda.roi_pool_backward(*arguments), reference.roi_pool_backward(*arguments), strict=True):
        yield mine, theirs, 0


def ps_roi_pool(outputs: int, rule: str, sampling_ratio: int = 2) -> Compared:
    size, (height, width) = 2, (9, 13)
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, size * size * outputs, height, width, generator=generator)
    _, boxes, levels = scene(1)
    valid = levels >= 0
    arguments = (feature, boxes, valid, 4.0, size, rule, sampling_ratio)
    found = cuda.ps_roi_pool(*arguments)
    yield found, reference.ps_roi_pool(*arguments), 1e-5
    given = torch.randn(found.shape, generator=generator)
    arguments = (given, boxes, valid, height, width, 4.0, rule, sampling_ratio)
    yield cuda.ps_roi_pool_backward(*arguments), reference.ps_roi_pool_backward(*arguments), 1e-5


def halves(dtype: torch.dtype) -> Compared:
    """Half types are computed in float32 and rounded once."""
    maps, boxes, levels = scene(5, dtype)
    whole = [m.float() for m in maps]
    eps = torch.finfo(dtype).eps

    def compared(found: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        assert found.dtype == dtype
        return found.float(), expected, float(expected.abs().max()) * eps

    align = (boxes, levels, STRIDES, 3, 2, True)
    expected = reference.roi_align(whole, *align)
    yield compared(cuda.roi_align(maps, *align), expected)
    given = expected.to(dtype)
    rest = (boxes, levels, *SIDES, STRIDES, 2, True)
    gradients = (cuda.roi_align_backward(given, *rest), reference.roi_align_backward(given.float(), *rest))
    yield from (compared(a, b) for a, b in zip(*gradients, strict=True))
    pool = (boxes, levels, STRIDES)
    yield compared(cuda.roi_pool(maps, *pool, 3), reference.roi_pool(whole, *pool, 3))
    gradients = (cuda.roi_pool_backward(given, maps, *pool), reference.roi_pool_backward(given.float(), whole, *pool))
    yield from (compared(a, b) for a, b in zip(*gradients, strict=True))
    rest = (boxes, levels >= 0, 4.0, 1, "caffe", 2)
    yield compared(cuda.ps_roi_pool(maps[0], *rest), reference.ps_roi_pool(whole[0], *rest))


def no_rois() -> Compared:
    """No RoI at all, and RoIs that are all padding or on no map, or whose boxes are no numbers."""
    maps, boxes, levels = scene(5)
    nan, inf = float("nan"), float("inf")
    wild = torch.tensor([[nan] * 4, [0, nan, 9, 9], [-inf, 0, inf, 9], [0, 0, 1e30, 1e30]]).expand(2, -1, -1)
    on_a_map = torch.zeros(2, 4, dtype=torch.int64)
    cases = [(boxes[:, :0], levels[:, :0]), (boxes, levels * 0 - 1), (boxes, levels * 0 + 2), (wild, on_a_map)]
    for box, level in cases:
        for ratio in (2, 0) if box is wild else (2,):
            found = cuda.roi_align(maps, box, level, STRIDES, 3, ratio, True)
            assert found.shape == (*level.shape, 5, 3, 3)
            yield found, torch.zeros_like(found), 0
        given = torch.ones_like(found)
        for gradient in cuda.roi_align_backward(given, box, level, *SIDES, STRIDES, 0, True):
            yield gradient, torch.zeros_like(gradient), 0
        if box is not wild:
            found = cuda.roi_pool(maps, box, level, STRIDES, 3)
            yield found, torch.zeros_like(found), 0
            for gradient in cuda.roi_pool_backward(given, maps, box, level, STRIDES):
                yield gradient, torch.zeros_like(gradient), 0
    # What the plain form makes of boundless boxes is not asked: only that nothing is read out of bounds.
    cuda.roi_pool_backward(cuda.roi_pool(maps, wild, on_a_map, STRIDES, 3), maps, wild, on_a_map, STRIDES)
    pooled = cuda.ps_roi_pool(maps[0][:, :4], wild, on_a_map == 0, 4.0, 2, "caffe", 2)
    yield pooled[:, :2], torch.zeros_like(pooled[:, :2]), 0


def crowd(images: int, boxes: int, spread: float, seed: int) -> tuple[torch.Tensor, ...]:
    """Boxes, scores with ties, validity and groups; the first box is empty, the second no number."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, boxes, 2, generator=generator) * spread
    box = torch.cat((corner, corner + torch.rand(images, boxes, 2, generator=generator) * 50), -1)
    box[:, 0, 2:] = box[:, 0, :2]
    box[:, 1, 1] = float("nan")
    scores = torch.randint(0, 20, (images, boxes), generator=generator) / 20
    valid = torch.rand(images, boxes, generator=generator) > 0.2
    return box, scores, valid, torch.tensor([-7, 3, 1 << 20])[torch.randint(0, 3, (images, boxes), generator=generator)]


def nms() -> Compared:
    for seed, (grouped, threshold, capacity) in enumerate(
        [(False, 0.7, 200), (True, 0.3, 200), (False, 0.0, 7), (True, 0.5, 1)]
    ):
        boxes, scores, valid, groups = crowd(2, 130, 60, seed)
        arguments = (boxes, scores, valid, groups if grouped else None, threshold, capacity)
        yield from ((a, b, 0) for a, b in zip(cuda.nms(*arguments), reference.nms(*arguments), strict=True))
    for threshold in (0.3, 0.7):  # in float32 the one lies above the number, the other below
        boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10 * threshold]]])
        arguments = (boxes, torch.tensor([[2.0, 1]]), torch.ones(1, 2, dtype=torch.bool), None, threshold, 2)
        yield from ((a, b, 0) for a, b in zip(cuda.nms(*arguments), reference.nms(*arguments), strict=True))
    for images, count, capacity in ((0, 5, 4), (2, 0, 4), (2, 5, 0)):
        boxes, scores, valid, _ = (torch.zeros(images, count, *s) for s in ((4,), (), (), ()))
        index, kept = cuda.nms(boxes, scores, valid.bool(), None, 0.5, capacity)
        yield index, torch.zeros(images, capacity, dtype=torch.int64), 0
        yield kept, torch.zeros(images, dtype=torch.int64), 0


def nms_in_segments() -> Compared:
    """More boxes than go at once: 128 in the interpreter, so that four segments follow each other."""
    count, spread = 9000, 700
    if DEVICE == "cpu":
        nms_file.WORDS, nms_file.SEGMENT = tl.constexpr(2), 128
        count, spread = 400, 150
    try:
        for capacity in (count, 50):
            boxes, scores, valid, groups = crowd(2, count, spread, 5)
            arguments = (boxes, scores, valid, groups if capacity == count else None, 0.3, capacity)
            yield from ((a, b, 0) for a, b in zip(cuda.nms(*arguments), reference.nms(*arguments), strict=True))
    finally:
        if DEVICE == "cpu":
            nms_file.WORDS, nms_file.SEGMENT = tl.constexpr(64), 4096


def match() -> Compared:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        """Boxes on a coarse grid, so that many overlaps tie, some of them empty."""
        corner = torch.randint(0, 20, (*shape, 2), generator=generator).float()
        return torch.cat((corner, corner + torch.randint(0, 12, (*shape, 2), generator=generator)), -1)

    for boxes, truths in ((1, 1), (700, 9), (1025, 3), (40, 0), (0, 4)):
        box, truth = some(2, boxes), some(2, truths)
        real = torch.rand(2, truths, generator=generator) > 0.3
        eligible = torch.rand(2, boxes, generator=generator) > 0.3
        for arguments in ((box, truth, real, eligible), (box[:1], truth, real, None)):
            yield from ((a, b, 0) for a, b in zip(cuda.match(*arguments), reference.match(*arguments), strict=True))


CASES = {
    "roi_align": lambda: roi_align(5, 3, 2, True),
    "roi_align, adaptive samples": lambda: roi_align(5, 3, 0, True),
    "roi_align, the first releases' rule": lambda: roi_align(3, 2, 0, False),
    "roi_align, more bins and channels than a program holds": lambda: roi_align(37, 9, 1, True),
    "roi_pool": lambda: roi_pool(5, 3),
    "roi_pool, more bins and channels than a program holds": lambda: roi_pool(37, 9, rois=2),
    "ps_roi_pool, caffe": lambda: ps_roi_pool(5, "caffe"),
    "ps_roi_pool, torchvision": lambda: ps_roi_pool(70, "torchvision"),
    "ps_roi_pool, align": lambda: ps_roi_pool(5, "align"),
    "ps_roi_pool, align with adaptive samples": lambda: ps_roi_pool(5, "align", 0),
    "bfloat16": lambda: halves(torch.bfloat16),
    "float16": lambda: halves(torch.float16),
    "no RoIs": no_rois,
    "nms": nms,
    "nms in segments": nms_in_segments,
    "match": match,
}


def main() -> None:
    """Prints one object: each case with the worst gap of its comparisons beyond what may be, or an error."""
    torch.set_num_threads(1)
    results = {}
    for name in sys.argv[1:] or CASES:
        start = time.process_time()
        try:
            beyond = [
                float((found.double() - expected.double()).abs().amax() - allowed) if found.numel() else 0.0
                for found, expected, allowed in CASES[name]()
            ]
            results[name] = {"beyond": max(beyond), "compared": len(beyond), "seconds": time.process_time() - start}
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
