"""VGG16 (Simonyan and Zisserman 2015, configuration D), on torchvision's modules.

The last max pooling is left to RoI pooling (Girshick 2015, section 2.1), so the map has stride 16 and a 7×7 RoI feeds
fc6. Letters: R RoIs, C channels, P pooled side.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import vgg16

from rcnn.backbones.backbone import Tap, Trunk

# The index behind conv1 (with its pooling) to conv5 (without).
STAGES = (5, 10, 17, 24, 30)


class FullyConnected(nn.Sequential):
    """fc6 and fc7 of a classifier: RoI features [R, C, P, P] to [R, D].

    Cells are read channel by channel, then row by row, in torchvision's files and in Caffe's alike, whatever the
    memory format of the features.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, P, P] to [R, D]."""
        return super().forward(x.flatten(1))


def trunk() -> Trunk:
    """VGG16's convolutions and, as the head, fc6 and fc7 with dropout."""
    net = vgg16(weights=None)
    head = FullyConnected(*net.classifier[:-1])
    body = nn.Sequential(*list(net.features.children())[:-1])
    return Trunk(body, STAGES, (Tap(29, 16, 512),), head, head_size=7, head_channels=4096)
