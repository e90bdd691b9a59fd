"""The fast form of a finished model on a CPU: folded, fused, with packed weights; the plain model where that fails."""

from __future__ import annotations

from rcnn.inference.quickened import Quickened, create, load, quicken

__all__ = ["Quickened", "create", "load", "quicken"]
