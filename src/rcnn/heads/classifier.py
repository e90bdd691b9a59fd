"""The classifier that R-CNN runs on every region, cut open where its SVMs and box regressors read: pool5 and fc7
(Girshick et al. 2014, sections 2.1 and 3.2).

pool5 still knows where in the crop something is, so boxes are moved by it; fc7 says best what it is. Letters: R
regions, C channels, H W rows and columns of the last map, P pooled side, F and D length of pool5 and fc7.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rcnn.backbones import Backbone
from rcnn.backbones.vgg import FullyConnected
from rcnn.errors import UserError

# Cells along a side of pool5 where a network averages its last map away and has no pool5 of its own.
QUARTERS = 2


class Classifier(nn.Module):
    """What a classifier does with its last shared map: [R, C, H, W] → pool5 [R, F] and fc7 [R, D].

    Networks with fully connected layers (AlexNet, ZF, VGG): pool5 is the map's maxima in P × P bins, which for the map
    of a full crop are those of the published last pooling (13 cells to 6 by windows of 3, 14 to 7 by windows of 2);
    fc7 is what fc6 and fc7 make of it. Networks that average their last map (ResNet, MobileNet, SqueezeNet): fc7 is
    that mean, pool5 the means of its four quarters.

    Args:
        backbone: its `head` moves here, so that it is counted once.

    Raises:
        UserError: the backbone is a pyramid, which classifies nothing.

    Attributes:
        pool5_channels: F; channels: D.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if backbone.fpn is not None:
            raise UserError(f"'{backbone.name}' is a pyramid and classifies nothing: name a backbone without one")
        self.layers, backbone.head = backbone.head or nn.Identity(), None
        self.pooled_size = backbone.head_size if isinstance(self.layers, FullyConnected) else 0
        if self.pooled_size:
            self.pool5_channels, self.channels = backbone.channels[-1] * self.pooled_size**2, backbone.head_channels
        else:
            if isinstance(self.layers, nn.Sequential):
                self.layers = self.layers[:-1]  # less its mean over the cells, which is taken below
            self.channels = backbone.head_channels or backbone.channels[-1]
            self.pool5_channels = self.channels * QUARTERS**2

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [R, C, H, W] → pool5 [R, F], channel by channel, and fc7 [R, D]."""
        if self.pooled_size:
            pool5 = F.adaptive_max_pool2d(maps, self.pooled_size)  # [R, C, P, P]
            return pool5.flatten(1), self.layers(pool5)
        last = self.layers(maps)  # [R, D, h, w]
        return F.adaptive_avg_pool2d(last, QUARTERS).flatten(1), last.mean((2, 3))
