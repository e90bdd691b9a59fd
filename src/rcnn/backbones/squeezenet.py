"""SqueezeNet 1.0 (Iandola et al. 2016), on torchvision's modules: all fire modules, stride 16.

It has no fully connected layers behind its last map, so the detector brings its own head.
"""

from __future__ import annotations

from torchvision.models import squeezenet1_0

from rcnn.backbones.backbone import Tap, Trunk

# Behind conv1, fire2–4, fire5–8 and fire9, each with the pooling that follows.
STAGES = (3, 7, 12, 13)


def trunk() -> Trunk:
    """SqueezeNet 1.0's layers up to fire9 (512 channels)."""
    return Trunk(squeezenet1_0(weights=None).features, STAGES, (Tap(12, 16, 512),))
