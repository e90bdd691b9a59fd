"""Sides that are measured each in its own process, in turn: allocator and thread settings of one would help another.

A benchmark is a script that, called with a side's name, measures that side and prints one line of JSON with lists of
milliseconds; called without, it runs the sides A B A B … through `alternate` and prints their medians and ratios.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Times = dict[str, list[float]]


def alternate(script: str, sides: Sequence[str], words: Sequence[str], rounds: int) -> dict[str, list[Times]]:
    """Runs `script SIDE WORDS…` for each side in turn, `rounds` times; what each printed last, by side."""
    found: dict[str, list[Times]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            call = [sys.executable, script, side, *words]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{side} failed:\n{done.stderr}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def medians(times: Sequence[Times]) -> dict[str, float]:
    """Of each name the median over rounds of the median of its list, in milliseconds."""
    return {name: statistics.median(statistics.median(one[name]) for one in times) for name in times[0]}


def processor() -> str:
    """The name of the processor and the number of cores that torch uses."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {torch.get_num_threads()} threads, torch {torch.__version__}"
