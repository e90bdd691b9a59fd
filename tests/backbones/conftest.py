"""Fixtures of the backbone tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rcnn.structures import ImageBatch

SHARED = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photograph() -> Callable[..., ImageBatch]:
    """Makes a batch of random uint8 pictures, one for each (height, width), padded to `to` or not at all."""

    def make(*sizes: tuple[int, int], to: tuple[int, int] | None = None, seed: int = 0) -> ImageBatch:
        generator = torch.Generator().manual_seed(seed)
        height, width = to or sizes[0]
        pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
        for i, (h, w) in enumerate(sizes):
            pixels[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator)
        return ImageBatch(pixels, torch.tensor(sizes, dtype=torch.float32))

    return make


@pytest.fixture
def shared_weights() -> Callable[[str], Path]:
    """The path of a weights file beside the repository; skips where there is none."""

    def find(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip(f"needs ../shared/weights/{name}")
        return SHARED / name

    return find
