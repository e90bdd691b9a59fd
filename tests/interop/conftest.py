"""Fixtures of the import tests."""

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def slow():
    """The module of independent forward passes, `slow.py`."""
    spec = importlib.util.spec_from_file_location("slow", HERE / "slow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def picture():
    """A smooth random picture uint8 RGB [3, H, W]: noise alone would average away in deep layers."""

    def make(height, width, seed=0):
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=rng)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        noise = torch.rand(1, 3, height, width, generator=rng)
        return ((0.8 * smooth + 0.2 * noise) * 255).to(torch.uint8)[0]

    return make


@pytest.fixture
def close():
    """Asserts that two tensors differ by at most 1e-4 of the largest value."""

    def check(found, expected, tolerance=1e-4):
        assert found.shape == expected.shape
        worst = (found - expected).abs().max() / expected.abs().max()
        assert worst <= tolerance, f"differs by {worst:.2g} of the largest value"

    return check
