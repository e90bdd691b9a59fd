"""How the numba kernels are compiled and spread over threads.

Kernels are serial and release the interpreter lock, so that threads run them side by side: torch's own OpenMP threads,
which wait for more by spinning after each of torch's operators and would keep any other thread from their cores for
milliseconds. Where torch has no such team, a pool of Python threads takes its place. Numba's own threads are not used:
its OpenMP layer kills forked data loader workers, and its work queue aborts when two threads enter it.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch

Task = tuple[Any, ...]  # a function followed by its arguments
_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_forked = False
_own = threading.local()


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
    """How many threads share a kernel's work: as many as torch uses (one in data loader workers); in a task one."""
    return 1 if getattr(_own, "task", False) else torch.get_num_threads()


def run(tasks: Sequence[Task], *, operators: bool = False) -> None:
    """Calls each task, a kernel followed by its arguments, over the threads; returns when all are done.

    A task may call `run`, which then does everything on the task's thread.

    Args:
        tasks: what to call.
        operators: whether tasks call torch's operators. In a thread of torch's team these take that thread only; in
            any other they take all, so that without a team the tasks run one after the other.

    Raises:
        BaseException: what the first failing task raised; tasks not yet begun are dropped.
    """
    team = None if _forked else _team()
    if threads() == 1 or len(tasks) < 2 or (operators and team is None):
        for function, *arguments in tasks:
            function(*arguments)
        return
    todo, failures = deque(tasks), list[BaseException]()

    def work(_: object = None) -> None:
        _own.task = True
        while not failures:
            try:
                function, *arguments = todo.popleft()
            except IndexError:
                break
            try:
                function(*arguments)
            except BaseException as failure:  # an OpenMP thread has nobody to raise to
                failures.append(failure)
        _own.task = False

    if team is not None:
        team(_Body(work), None, threads(), 0)
    else:
        for future in [_executor().submit(work) for _ in range(threads())]:
            future.result()
    if failures:
        raise failures[0]


def spans(length: int, least: int = 1) -> list[tuple[int, int]]:
    """Cuts `length` items into ranges for the threads, a few for each so that none waits long, of ≥ `least` items."""
    parts = max(1, min(length // least, 4 * threads() if threads() > 1 else 1))
    edges = [length * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


@functools.cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that torch has loaded: a function is called by each thread of the team."""
    packages = Path(torch.__file__).parent
    for path in itertools.chain(packages.glob("lib/libgomp*"), packages.parent.glob("torch.libs/libgomp*")):
        try:
            parallel = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = [_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return parallel
    return None


def _executor() -> ThreadPoolExecutor:
    """The shared pool, made at its first use and anew when torch's number of threads has changed."""
    global _pool, _pool_size
    if _pool is None or _pool_size != threads():
        _pool, _pool_size = ThreadPoolExecutor(threads(), thread_name_prefix="rcnn-kernel"), threads()
    return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads, and OpenMP would wait for them: it makes a pool of its own."""
    global _pool, _forked
    _pool, _forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
