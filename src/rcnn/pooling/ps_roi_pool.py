"""Position-sensitive RoI pooling as a module, and the vote that follows it (Dai et al. 2016, section 2).

Letters: B images, N RoIs, D outputs, k pooled side, H W height and width of a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from rcnn import kernels
from rcnn.errors import UserError


@dataclass(frozen=True)
class PSPoolOptions:
    """How the bins of a region read their maps.

    Attributes:
        kind: where bins begin and end: "align" (bilinear samples, as RoIAlign), "pool" (whole pixels by the rule of
            the authors' Caffe code) or "torchvision" (whole pixels by the rule of its `ps_roi_pool`).
        size: k, bins along each axis: 7 or 3 in the paper.
        sampling_ratio: of "align", samples of a bin along each axis; 0 takes one a cell.

    Raises:
        UserError: a size below 1.
    """

    kind: Literal["align", "pool", "torchvision"] = "align"
    size: int = 7
    sampling_ratio: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"model.pool.size = {self.size}: expected at least one bin along each axis")


class PSRoIPool(nn.Module):
    """Pools each RoI to [D, k, k] from a map of k²·D channels: each bin from its own D, as `kernels.ps_roi_pool`.

    Args:
        options: see `PSPoolOptions`.
        stride: input pixels per pixel of the map.
    """

    def __init__(self, options: PSPoolOptions, stride: float) -> None:
        super().__init__()
        self.options, self.stride = options, float(stride)

    def forward(self, feature: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:
        """Pools boxes [B, N, 4] (pixels) of the map [B, k²·D, H, W]: [B, N, D, k, k], zeros where not valid [B, N]."""
        return kernels.ps_roi_pool(
            feature,
            boxes,
            valid,
            stride=self.stride,
            size=self.options.size,
            rule="caffe" if self.options.kind == "pool" else self.options.kind,
            sampling_ratio=self.options.sampling_ratio,
        )

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"{self.options.kind}, size={self.options.size}, stride={self.stride}"


def vote(pooled: Tensor) -> Tensor:
    """The mean over the bins: [B, N, D, k, k] → [B, N, D]."""
    return pooled.mean((-2, -1))
