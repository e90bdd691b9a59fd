"""AlexNet (Krizhevsky et al. 2012) in two published layouts, the small nets of R-CNN and Fast R-CNN.

`alexnet` is torchvision's one-column network (Krizhevsky 2014). `caffenet` is the Caffe reference network that R-CNN
used: pooling before response normalisation, two groups in conv2, conv4 and conv5; its windows are padded by half a
kernel as in Fast R-CNN's model S, so that a map's cell lies at the centre of what it sees.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import alexnet

from rcnn.backbones.backbone import Tap, Trunk
from rcnn.backbones.vgg import FullyConnected


def alexnet_trunk() -> Trunk:
    """torchvision's AlexNet up to conv5; fc6 and fc7 with dropout as the head."""
    net = alexnet(weights=None)
    head = FullyConnected(*net.classifier[:-1])
    return Trunk(net.features[:-1], (3, 6, 8, 10, 12), (Tap(11, 16, 256),), head, head_size=6, head_channels=4096)


def caffenet_trunk() -> Trunk:
    """The Caffe reference network up to conv5; fc6 and fc7 with dropout as the head."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(3, 96, 11, stride=4, padding=5)),
        ("relu1", nn.ReLU(inplace=True)),
        ("pool1", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
        ("norm1", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)),
        ("conv2", nn.Conv2d(96, 256, 5, padding=2, groups=2)),
        ("relu2", nn.ReLU(inplace=True)),
        ("pool2", nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)),
        ("norm2", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)),
        ("conv3", nn.Conv2d(256, 384, 3, padding=1)),
        ("relu3", nn.ReLU(inplace=True)),
        ("conv4", nn.Conv2d(384, 384, 3, padding=1, groups=2)),
        ("relu4", nn.ReLU(inplace=True)),
        ("conv5", nn.Conv2d(384, 256, 3, padding=1, groups=2)),
        ("relu5", nn.ReLU(inplace=True)),
    ]
    body = nn.Sequential(OrderedDict(layers))
    head = caffe_head(256, 4096)
    return Trunk(body, (4, 8, 10, 12, 14), (Tap(13, 16, 256),), head, head_size=6, head_channels=4096)


def caffe_head(channels: int, width: int) -> FullyConnected:
    """fc6 (4096) and fc7 (`width`) behind 6×6 cells, with dropout, under Caffe's names."""
    layers: list[tuple[str, nn.Module]] = [
        ("fc6", nn.Linear(channels * 6 * 6, 4096)),
        ("relu6", nn.ReLU(inplace=True)),
        ("drop6", nn.Dropout()),
        ("fc7", nn.Linear(4096, width)),
        ("relu7", nn.ReLU(inplace=True)),
        ("drop7", nn.Dropout()),
    ]
    return FullyConnected(OrderedDict(layers))
