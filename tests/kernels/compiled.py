"""Compiles Triton's kernels for a GPU that is not there, through the very calls that would run them.

A program of its own: it puts a driver of paper in Triton's place. `python compiled.py 80 float32…` prints JSON: the
kernels compiled for that compute capability, how often each, and the operators that would have waited for the GPU.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rcnn.kernels import cuda

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh")


class Paper:
    """A driver for a GPU of a compute capability, such as 80."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.overloadpacket.__name__ in WAITING:
            self.seen.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


def call_all(dtype: torch.dtype, height: int, width: int) -> None:
    """Every operator once, on maps whose sides are and are not divisible by 16 from call to call."""
    maps = [torch.zeros(2, 256, height // s, width // s, dtype=dtype) for s in (1, 2)]
    boxes, levels = torch.zeros(2, 9, 4), torch.zeros(2, 9, dtype=torch.int64)
    sides = [[m.shape[2] for m in maps], [m.shape[3] for m in maps]]
    for ratio in (2, 0):
        pooled = cuda.roi_align(maps, boxes, levels, [4.0, 8.0], 7, ratio, True)
        cuda.roi_align_backward(pooled, boxes, levels, *sides, [4.0, 8.0], ratio, True)
    pooled = cuda.roi_pool(maps, boxes, levels, [4.0, 8.0], 7)
    cuda.roi_pool_backward(pooled, maps, boxes, levels, [4.0, 8.0])
    feature = torch.zeros(2, 9 * 21, height, width, dtype=dtype)
    for rule in ("caffe", "torchvision", "align"):
        pooled = cuda.ps_roi_pool(feature, boxes, levels >= 0, 16.0, 3, rule, 2)
        cuda.ps_roi_pool_backward(pooled, boxes, levels >= 0, height, width, 16.0, rule, 2)
    if dtype == torch.float32:
        some = height * 100  # more than one segment of NMS
        candidates, scores, valid = torch.zeros(2, some, 4), torch.zeros(2, some), torch.zeros(2, some).bool()
        for groups in (None, torch.zeros(2, some, dtype=torch.int64)):
            cuda.nms(candidates, scores, valid, groups, 0.7, width)
        real = torch.zeros(2, height).bool()
        cuda.match(candidates[:1], torch.zeros(2, height, 4), real, None)
        cuda.match(candidates, torch.zeros(2, height, 4), real, valid)


def main() -> None:
    driver.set_active(Paper(int(sys.argv[1])))
    compiled: dict[str, set[str]] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        compiled.setdefault(f"{self.fn.__module__.rsplit('.', 1)[1]}.{self.fn.__name__}", set()).add(kernel.hash)
        assert "cubin" in kernel.asm
        return kernel

    JITFunction.run = compile_only
    with Watch() as watch:
        for dtype in sys.argv[2:]:
            for height, width in ((48, 64), (49, 51)):
                call_all(getattr(torch, dtype), height, width)
    counts = Counter({name: len(kernels) for name, kernels in compiled.items()})
    print(json.dumps({"kernels": counts, "waiting": sorted(watch.seen)}))


if __name__ == "__main__":
    main()
