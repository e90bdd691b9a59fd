"""The layers between RoI pooling and the box predictors: the classifier's own, or new ones (Girshick 2015, section
2.2).

Letters: R RoIs, C channels, P pooled side, D width of the result.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rcnn.backbones import Backbone
from rcnn.errors import UserError
from rcnn.heads.box import SharedFC
from rcnn.heads.convs import HeadNorm, conv_layers


def box_trunk(
    backbone: Backbone,
    size: int | None,
    hidden: tuple[int, ...],
    convs: tuple[int, ...] = (),
    norm: HeadNorm = "none",
) -> tuple[nn.Module, int, int]:
    """Layers [R, C, P, P] → [R, D], their width D, and the pooled side P that they expect.

    A backbone's own head (VGG16's fc6 and fc7, ResNet-C4's conv5) moves here, so that it is counted once; others get
    fully connected layers of the widths `hidden` behind convolutions of the widths `convs` with the normalisation
    `norm`. `size` is the P wanted; None for what the head was made for, else 7.

    Raises:
        UserError: the head has batch norm, whose statistics would count the unused places of the R as RoIs.
    """
    if any(isinstance(layer, nn.BatchNorm2d) for layer in (backbone.head or nn.Identity()).modules()):
        raise UserError(
            f"model.backbone.norm = 'batch' does not suit '{backbone.name}': its last layers run on regions, where the"
            " statistics of a batch would count unused places; expected 'group', or 'frozen' with weights"
        )
    if backbone.head is not None:
        trunk, backbone.head = backbone.head, None
        return trunk, backbone.head_channels, size or backbone.head_size
    size = size or 7
    fc = SharedFC((convs[-1] if convs else backbone.channels[0]) * size * size, hidden)
    if not convs:
        return fc, fc.channels, size
    layers: dict[str, nn.Module] = {"convs": conv_layers(backbone.channels[0], convs, norm), "fc": fc}
    return nn.Sequential(OrderedDict(layers)), fc.channels, size
