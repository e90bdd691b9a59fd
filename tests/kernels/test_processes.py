"""The kernels in data loader workers, in threads, and without numba."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader

from rcnn import kernels


def pooled(item: int) -> torch.Tensor:
    """Runs every kernel on data made from `item`."""
    generator = torch.Generator().manual_seed(item)
    boxes = torch.rand(1, 40, 4, generator=generator) * 30
    boxes[..., 2:] += boxes[..., :2]
    feature, levels = torch.randn(1, 32, 16, 16, generator=generator), torch.zeros(1, 40, dtype=torch.int64)
    valid = torch.ones(1, 40, dtype=torch.bool)
    index, _ = kernels.nms(boxes, levels.float(), valid, threshold=0.5, capacity=40)
    overlap, _, _ = kernels.match(boxes, boxes[:, :5], valid[:, :5])
    align = kernels.roi_align([feature], boxes, levels, strides=[4], size=3)
    pool = kernels.roi_pool([feature], boxes, levels, strides=[4], size=3)
    return torch.cat([t.double().flatten() for t in (index, overlap, align, pool)])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_give_the_parents_result_after_the_parent_used_its_threads(method):
    expected = [pooled(i) for i in range(3)]
    loader = DataLoader(range(3), batch_size=None, num_workers=1, collate_fn=pooled, multiprocessing_context=method)
    for a, b in zip(loader, expected, strict=True):
        assert torch.equal(a, b)


def test_several_threads_may_call_at_once():
    expected = [pooled(i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(pooled, range(8)), expected, strict=True):
            assert torch.equal(a, b)


def run(program: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    import os

    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


def test_without_numba_torchvisions_operators_run():
    program = "import sys; sys.modules['numba'] = None; from rcnn import kernels; print(kernels.form('cpu').__name__)"
    assert run(program).strip() == "rcnn.kernels.torchvision_ops"


def test_numba_is_imported_at_the_first_call_only():
    assert run("import sys, rcnn.kernels; print('numba' in sys.modules)").strip() == "False"
