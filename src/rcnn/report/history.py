"""Columns of a training log, whose rows need not all have every value. Letters: N rows that have it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def column(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps (N,) and values (N,) of the rows that have a finite number under `name`."""
    rows = []
    for row in metrics:
        try:
            step, value = float(row["step"]), float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            rows.append((step, value))
    steps, values = zip(*rows, strict=True) if rows else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def loss_parts(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the losses that make up the total, in the order of the log."""
    return list(dict.fromkeys(key for row in metrics for key in row if str(key).startswith("loss_")))
