"""The processes that train together: one, or as many as `torchrun` started, each with a share of a step's images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among those that train together.

    Attributes:
        rank: its number; 0 writes the files and talks.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The indices among 0 … count − 1 that are this process's to evaluate."""
        return range(self.rank, count, self.size)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in order of rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Joins the processes that `torchrun` started, and gives the world and this process's own device.

    NCCL carries the gradients between GPUs, gloo between CPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size), device
    finally:
        distributed.destroy_process_group()
