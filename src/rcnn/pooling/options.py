"""What a system's settings say of its RoI pooling. Letters: P pooled side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rcnn.pooling.roi_align import RoIAlign
from rcnn.pooling.roi_pool import RoIPool
from rcnn.pooling.roi_warp import RoIWarp


@dataclass(frozen=True)
class PoolOptions:
    """How a region becomes a fixed size.

    Attributes:
        kind: "align" (RoIAlign, He et al. 2017), "pool" (RoI max pooling, Girshick 2015) or "warp" (RoI warping, Dai
            et al. 2016: samples as RoIAlign does and takes each bin's maximum; boxes get a gradient).
        size: P; None for what the head wants: 7 for fully connected layers, otherwise the backbone's own.
        sampling_ratio: samples a bin and axis of RoIAlign and RoI warping; 0, of RoIAlign only, takes one a cell.
        aligned: RoIAlign's half-pixel shift; off only for weights that were trained without.
        canonical_size: on a pyramid, the side in pixels from which a region is pooled from stride 16, twice that from
            stride 32, and so on (Lin et al. 2017, equation 1).
    """

    kind: Literal["align", "pool", "warp"] = "align"
    size: int | None = None
    sampling_ratio: int = 2
    aligned: bool = True
    canonical_size: float = 224.0


def roi_pooling(options: PoolOptions, size: int, strides: Sequence[float]) -> RoIAlign | RoIPool | RoIWarp:
    """The pooling module that the options name, for maps of `strides`."""
    if options.kind == "pool":
        return RoIPool(size=size, strides=strides, canonical_size=options.canonical_size)
    if options.kind == "warp":
        return RoIWarp(
            size=size, strides=strides, samples=options.sampling_ratio, canonical_size=options.canonical_size
        )
    return RoIAlign(
        size=size,
        strides=strides,
        sampling_ratio=options.sampling_ratio,
        aligned=options.aligned,
        canonical_size=options.canonical_size,
    )
