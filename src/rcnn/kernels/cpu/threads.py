"""How the numba kernels are compiled and spread over threads.

Kernels are serial and release the interpreter lock; Python threads run them side by side. Numba's own threads are not
used: its OpenMP layer kills forked data loader workers, and its work queue aborts when two threads enter it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def kernel(*, fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function at its first call; the machine code is kept on disk where some cache folder is writable.

    `error_model="numpy"`: without the check of each division for zero the loops vectorise.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable folder for the cache
            return numba.njit(**options)(function)

    return compiled


def threads() -> int:
    """How many threads share a kernel's work: as many as torch uses, which is one in data loader workers."""
    return torch.get_num_threads()


def run(tasks: Sequence[tuple[Any, ...]]) -> None:
    """Calls each task, a kernel followed by its arguments, over the threads; returns when all are done."""
    if threads() == 1 or len(tasks) < 2:
        for function, *arguments in tasks:
            function(*arguments)
        return
    for future in [_executor().submit(*task) for task in tasks]:
        future.result()


def spans(length: int, least: int = 1) -> list[tuple[int, int]]:
    """Cuts `length` items into ranges for the threads, a few for each so that none waits long, of ≥ `least` items."""
    parts = max(1, min(length // least, 4 * threads() if threads() > 1 else 1))
    edges = [length * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _executor() -> ThreadPoolExecutor:
    """The shared pool, made at its first use and anew when torch's number of threads has changed."""
    global _pool, _pool_size
    if _pool is None or _pool_size != threads():
        _pool, _pool_size = ThreadPoolExecutor(threads(), thread_name_prefix="rcnn-kernel"), threads()
    return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads: it makes a pool of its own when it needs one."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
