"""Inputs that the kernel tests share: maps, and boxes in every awkward place."""

from __future__ import annotations

import pytest
import torch

from rcnn.kernels import reference, torchvision_ops
from rcnn.kernels.forms import form

AWKWARD = torch.tensor(
    [
        [10.0, 10, 11, 11],  # one pixel
        [20, 20, 20, 20],  # empty
        [60, 50, 30, 20],  # inside out
        [-50, -40, 30, 30],  # partly outside
        [150, 100, 400, 300],
        [-90, -90, -20, -20],  # outside
        [500, 500, 600, 600],
        [0, 0, 160, 128],  # all of it
        [-1000, -1000, 3000, 3000],
        [2, 6, 10, 26],  # corners that lie halfway between the pixels of a stride of 4
        [float("nan"), 0, 10, 10],
    ]
)


@pytest.fixture(params=["fast", "torchvision"])
def kernels_form(request):
    """The numba form and torchvision's; what runs on this CPU must come from somewhere."""
    return form("cpu") if request.param == "fast" else torchvision_ops


@pytest.fixture
def plain():
    """The plain torch form."""
    return reference


@pytest.fixture
def pyramid():
    """Three maps [2, 5, H, W] of strides 4, 8, 16 of an image of 128 × 160 pixels, channels-last."""
    torch.manual_seed(0)
    return [torch.randn(2, 5, 128 // s, 160 // s).contiguous(memory_format=torch.channels_last) for s in (4, 8, 16)]


@pytest.fixture
def rois():
    """Boxes [2, 31, 4] of all kinds but NaN, and levels [2, 31] from -1 (padding) to 2."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 21, 2, generator=generator) * 140 - 10
    boxes = torch.cat((corner, corner + torch.rand(2, 21, 2, generator=generator) * 90), -1)
    boxes = torch.cat((AWKWARD[:-1].expand(2, -1, -1), boxes), 1)
    return boxes, torch.randint(-1, 3, boxes.shape[:2], generator=generator)
