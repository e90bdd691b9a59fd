"""The networks of model M and of the fast Faster R-CNN, by their published Caffe definitions.

`zf` is Zeiler and Fergus's fast network (2014, ZF-5 of SPP-net) as released with Faster R-CNN. `vgg-m` is
VGG_CNN_M_1024 (Chatfield et al. 2014, section 2; fc7 of 1024), the model M of Fast R-CNN. Both pool upwards in Caffe's
way: a window that begins inside the map counts. Letters: B images, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.backbones.alexnet import caffe_head
from rcnn.backbones.backbone import Tap, Trunk


class SpatialResponseNorm(nn.Module):
    """Response normalisation within each channel: x / (1 + α · mean of x² over a size×size window)^β.

    Caffe's `WITHIN_CHANNEL` region; cells outside the map count as zeros in the mean.
    """

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        mean = F.avg_pool2d(x.square(), self.size, stride=1, padding=self.size // 2)
        return x / (1 + self.alpha * mean) ** self.beta


def zf_trunk() -> Trunk:
    """ZF up to conv5 (256 channels, stride 16); fc6 and fc7 of 4096 as the head."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(3, 96, 7, stride=2, padding=3)),
        ("relu1", nn.ReLU(inplace=True)),
        ("norm1", SpatialResponseNorm(3, alpha=5e-5, beta=0.75)),
        ("pool1", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
        ("conv2", nn.Conv2d(96, 256, 5, stride=2, padding=2)),
        ("relu2", nn.ReLU(inplace=True)),
        ("norm2", SpatialResponseNorm(3, alpha=5e-5, beta=0.75)),
        ("pool2", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
        *_conv3_to_5(256, 384, 256),
    ]
    return _caffe_trunk(layers, 256, 4096)


def vgg_m_trunk() -> Trunk:
    """VGG_CNN_M_1024 up to conv5 (512 channels, stride 16); fc6 of 4096 and fc7 of 1024 as the head."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(3, 96, 7, stride=2)),
        ("relu1", nn.ReLU(inplace=True)),
        ("norm1", nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)),
        ("pool1", nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        ("conv2", nn.Conv2d(96, 256, 5, stride=2, padding=1)),
        ("relu2", nn.ReLU(inplace=True)),
        ("norm2", nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)),
        ("pool2", nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *_conv3_to_5(256, 512, 512),
    ]
    return _caffe_trunk(layers, 512, 1024)


def _conv3_to_5(channels: int, middle: int, last: int) -> list[tuple[str, nn.Module]]:
    return [
        ("conv3", nn.Conv2d(channels, middle, 3, padding=1)),
        ("relu3", nn.ReLU(inplace=True)),
        ("conv4", nn.Conv2d(middle, middle, 3, padding=1)),
        ("relu4", nn.ReLU(inplace=True)),
        ("conv5", nn.Conv2d(middle, last, 3, padding=1)),
        ("relu5", nn.ReLU(inplace=True)),
    ]


def _caffe_trunk(layers: list[tuple[str, nn.Module]], channels: int, width: int) -> Trunk:
    body, head = nn.Sequential(OrderedDict(layers)), caffe_head(channels, width)
    return Trunk(body, (4, 8, 10, 12, 14), (Tap(13, 16, channels),), head, head_size=6, head_channels=width)
