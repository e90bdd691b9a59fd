"""Settings of the whole process: the allocator and the number of threads.

The command line makes them; a Python program makes them by calling `rcnn.tune_process()`; an import never does.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path

# malloc.h of glibc: its two parameters that decide when memory goes back to the system.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


def cpus() -> int:
    """The number of cores that this process may use: its affinity, cut by a container's quota; at least 1."""
    return max(1, min(_affinity(), _quota()))


def _affinity() -> int:
    """The number of cores that the scheduler may put this process on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores' worth of time that the control group grants, rounded up; very large where it sets no limit."""
    try:
        granted, period = path.read_text().split()
        return math.ceil(int(granted) / int(period))
    except (OSError, ValueError):  # no control groups, another version of them, or "max"
        return sys.maxsize


def tune_process() -> None:
    """Keeps freed memory in the process, and keeps torch from starting more threads than a container's quota feeds.

    glibc otherwise hands the memory of each large tensor back to the system, to be cleared page by page when the
    next operation asks for as much. Threads are set by environment variable, so call this before torch is imported;
    a variable that is already set is left alone, and so is torch's own choice where there is no quota.
    """
    if _quota() < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus()))
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
