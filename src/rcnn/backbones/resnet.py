"""ResNets (He et al. 2016) as detector backbones, on torchvision's modules.

Four forms: C4 shares everything up to res4 and makes res5 the RoI head (He et al. 2016, appendix A); C5 shares res5
too, kept at stride 16 by dilation, à trous (Dai et al. 2016, section 2); FPN takes the outputs of res2 to res5
(Lin et al. 2017), and skip those of strides 8, 16 and 32 as they are. torchvision puts the stride of a bottleneck on
its 3×3 convolution; the paper's own weights, and what Detectron2 trained from them, have it on the first 1×1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from rcnn.backbones.backbone import Tap, Trunk
from rcnn.backbones.norm import NormLayer

LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
STAGES = (4, 5, 6, 7, 8)


class MeanPool(nn.Module):
    """[R, D, P, P] to [R, D]: the mean over the cells."""

    def forward(self, x: Tensor) -> Tensor:
        """[R, D, P, P] to [R, D]."""
        return x.mean((2, 3))


def trunk(
    make: Callable[..., ResNet],
    form: str,
    norm: NormLayer,
    *,
    stride_on: Literal["3x3", "1x1"] = "3x3",
    stem_pool: Literal["padded", "ceil"] = "padded",
) -> Trunk:
    """The layers of torchvision's ResNet `make` in one of the forms c4, c5, fpn and skip.

    `stride_on` and `stem_pool` are as of `BackboneOptions`.
    """
    net = make(weights=None, norm_layer=norm)
    if stride_on == "1x1":
        _stride_first(net)
    if stem_pool == "ceil":
        net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    if form == "c5":
        _dilate(net.layer4)
    names = LAYERS[:-1] if form == "c4" else LAYERS
    body = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in names))
    width = net.fc.in_features
    last = 16 if form == "c5" else 32
    taps = tuple(Tap(4 + i, (4, 8, 16, last)[i], width >> (3 - i)) for i in range(len(names) - 4))
    if form != "c4":
        return Trunk(body, STAGES, taps)
    layers: dict[str, nn.Module] = {"layer4": net.layer4, "pool": MeanPool()}
    head = nn.Sequential(OrderedDict(layers))
    return Trunk(body, STAGES[:-1], taps, head, head_size=14, head_channels=width)


def _stride_first(net: ResNet) -> None:
    """Moves the stride of each bottleneck from its 3×3 convolution to the 1×1 before."""
    for block in net.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _dilate(layer4: nn.Sequential) -> None:
    """Takes the stride of res5 away and spreads its 3×3 windows over the cells they saw before (à trous)."""
    blocks: Any = layer4  # untyped: torchvision's blocks declare none of their layers
    for index, block in enumerate(blocks):
        windows = [block.conv1, block.conv2] if isinstance(block, BasicBlock) else [block.conv2]
        if index == 0:
            # The window that strode saw the undivided map: it keeps its spacing. Behind a 1×1 that strode all widen.
            strode = next(conv for conv in (block.conv1, block.conv2) if conv.stride != (1, 1))
            strode.stride = block.downsample[0].stride = (1, 1)
            windows = [window for window in windows if window is not strode]
        for window in windows:
            window.dilation = window.padding = (2, 2)
