"""Holding what a file has against what a model needs, before a model of its size is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.detectors import create
from rcnn.errors import UserError


def needed(system: str, classes: Sequence[str], settings: Mapping[str, Any]) -> dict[str, torch.Size]:
    """The keys of a model's state dict and their shapes; nothing is allocated."""
    with torch.device("meta"):
        return {key: value.shape for key, value in create(system, classes, settings=settings).state_dict().items()}


def fitted(path: Path, source: str, value: Tensor | None, shape: torch.Size) -> Tensor:
    """The tensor `value` that a file has as `source`, where a model needs one of `shape`.

    Raises:
        UserError: there is none, or it has another shape.
    """
    if value is None:
        raise UserError(f"'{path}' lacks '{source}', of shape {list(shape)}")
    if value.shape != shape:
        raise UserError(f"'{path}' has '{source}' of shape {list(value.shape)}, expected {list(shape)}")
    return value
