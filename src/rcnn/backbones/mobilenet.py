"""MobileNetV2 (Sandler et al. 2018) and V3-Large (Howard et al. 2019) as detector backbones, on torchvision's modules.

The plain form shares the layers up to stride 16 and makes the rest the RoI head, as ResNet's C4 form does. The FPN form
takes the last map of each stride, and so does skip, as they are, from stride 8 on. torchvision's own detectors tap
elsewhere: the first block of stride 32 and the last layer (`TORCHVISION_TAPS`), both of stride 32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn
from torchvision.models import MobileNetV2, MobileNetV3

from rcnn.backbones.backbone import Tap, Trunk
from rcnn.backbones.norm import NormLayer
from rcnn.backbones.resnet import MeanPool

# The index behind each stage of `features`; a stage begins with the block that strides.
STAGES_V2 = (2, 4, 7, 14, 18, 19)
STAGES_V3 = (2, 4, 7, 13, 16, 17)
TAPS_V2 = (Tap(3, 4, 24), Tap(6, 8, 32), Tap(13, 16, 96), Tap(18, 32, 1280))
TAPS_V3 = (Tap(3, 4, 24), Tap(6, 8, 40), Tap(12, 16, 112), Tap(16, 32, 960))
TORCHVISION_TAPS_V2 = (Tap(14, 32, 160), Tap(18, 32, 1280))
TORCHVISION_TAPS_V3 = (Tap(13, 32, 160), Tap(16, 32, 960))


def trunk(make: Callable[..., MobileNetV2 | MobileNetV3], form: str, norm: NormLayer) -> Trunk:
    """The layers of torchvision's MobileNet `make` in the plain, the FPN or the skip form."""
    net = make(weights=None, norm_layer=norm)
    second = isinstance(net, MobileNetV2)
    stages, taps = (STAGES_V2, TAPS_V2) if second else (STAGES_V3, TAPS_V3)
    if form in ("fpn", "skip"):
        return Trunk(net.features, stages, taps)
    shared = taps[2].layer + 1  # everything up to stride 16
    rest = OrderedDict((str(i), layer) for i, layer in enumerate(net.features) if i >= shared)
    head = nn.Sequential(rest | OrderedDict(pool=MeanPool()))
    return Trunk(net.features[:shared], stages[:4], taps[:3], head, head_size=14, head_channels=taps[3].channels)
