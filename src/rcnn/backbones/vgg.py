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
# The convolutions and fully connected layers by the names of the VGG group's Caffe definition.
CAFFE_LAYERS = {
    **dict(
        zip(
            [f"conv{stage}_{i}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)],
            [f"features.{index}" for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)],
            strict=True,
        )
    ),
    "fc6": "classifier.0",
    "fc7": "classifier.3",
}
# Behind pool3, pool4 and pool5.
SKIPS = (Tap(16, 8, 256), Tap(23, 16, 512), Tap(30, 32, 512))


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


def skip_trunk() -> Trunk:
    """All of VGG16 but its last layer, with the maps of pool3, pool4 and pool5 (Long et al. 2015, section 4)."""
    net = vgg16(weights=None)
    body, head = nn.Sequential(*net.features.children()), FullyConnected(*net.classifier[:-1])
    return Trunk(body, STAGES, SKIPS, head, head_size=7, head_channels=4096)


def convolutional(head: FullyConnected, channels: int, size: int, padding: int = 0) -> nn.Sequential:
    """Fully connected layers as convolutions with the same weights (Long et al. 2015, section 3.1).

    Args:
        head: its first layer reads maps [R, channels, size, size].
        channels: of those maps; `size`: their side.
        padding: of the first convolution; 0 as published.

    Returns:
        layers [B, channels, H, W] → [B, D, H′, W′], H′ = H − size + 1 + 2 · padding.
    """
    layers: list[nn.Module] = []
    for layer in head:
        if not isinstance(layer, nn.Linear):
            layers.append(layer)
            continue
        shape = (channels, layer.out_features, size)
        conv = nn.Conv2d(*shape, padding=padding if size > 1 else 0, bias=layer.bias is not None, device="meta")
        conv.weight = nn.Parameter(layer.weight.detach().view(conv.weight.shape))
        conv.bias = layer.bias
        layers.append(conv)
        channels, size = layer.out_features, 1
    return nn.Sequential(*layers)
