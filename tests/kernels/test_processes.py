"""The kernels in data loader workers, in threads, and without numba."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader

from rcnn import kernels
from rcnn.kernels.cpu import threads


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


needs_team = pytest.mark.skipif(threads._team() is None, reason="torch has no OpenMP threads of its own here")


@pytest.fixture(params=[pytest.param("team", marks=needs_team), "pool"])
def two_threads(request, monkeypatch):
    """Kernels run on two threads: those of torch's own team, or Python's."""
    before = torch.get_num_threads()
    if request.param == "pool":
        monkeypatch.setattr(threads, "_team", lambda: None)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_task_runs_once_whichever_threads_there_are(two_threads):
    for count in (0, 1, 2, 3, 200):
        done: list[int] = []
        threads.run([(done.append, task) for task in range(count)])
        assert sorted(done) == list(range(count))


def test_two_tasks_run_at_once(two_threads):
    meeting = threading.Barrier(2)  # a task that waits for another one that never comes breaks it
    threads.run([(meeting.wait, 30), (meeting.wait, 30)])


@pytest.mark.parametrize("operators", [False, True])
def test_a_task_may_share_out_work_of_its_own(two_threads, operators):
    found: list[tuple[int, int]] = []

    def share(outer: int) -> None:
        assert threads.threads() == 1 or (operators and threads._team() is None)
        threads.run([(found.append, (outer, inner)) for inner in range(3)])

    threads.run([(share, outer) for outer in range(5)], operators=operators)
    assert sorted(found) == [(outer, inner) for outer in range(5) for inner in range(3)]
    assert threads.threads() == 2


@pytest.mark.parametrize("kind", [ValueError, IndexError, KeyboardInterrupt])
def test_what_a_task_raises_reaches_the_caller_and_the_next_call_works(two_threads, kind):
    def fail() -> None:
        raise kind("of a task")

    with pytest.raises(kind, match="of a task"):
        threads.run([(fail,), *[(time.sleep, 0.001)] * 20])
    done: list[int] = []
    threads.run([(done.append, 1), (done.append, 2)])
    assert sorted(done) == [1, 2]


def test_a_forked_child_with_several_threads_does_not_wait_for_its_parents_team():
    program = """
import os, torch
from rcnn.kernels.cpu import threads
torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)  # begins torch's team
threads.run([(abs, 1), (abs, 2)])
child = os.fork()
if child == 0:
    done = []
    threads.run([(done.append, 1), (done.append, 2)])
    os._exit(0 if sorted(done) == [1, 2] else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(program).strip() == "0"


def run(program: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


def test_without_numba_torchvisions_operators_run():
    program = "import sys; sys.modules['numba'] = None; from rcnn import kernels; print(kernels.form('cpu').__name__)"
    assert run(program).strip() == "rcnn.kernels.torchvision_ops"


def test_numba_is_imported_at_the_first_call_only():
    assert run("import sys, rcnn.kernels; print('numba' in sys.modules)").strip() == "False"
