"""Frozen batch norm folded into the convolution before it: conv(x, w) · scale + shift = conv(x, w · scale) + shift.

One pass over the map instead of two, forward and back. In bf16 it is also what keeps pretrained features: a channel's
mean may be many times its deviation, and a map that is rounded before the mean is taken off has lost the rest. The
layers stay where they were, under their names, so that published state dicts load and the weight still trains.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from rcnn.backbones.conv import Conv2d
from rcnn.backbones.norm import FrozenBatchNorm


class FoldedConv2d(Conv2d):
    """A convolution that applies the scale and shift of the frozen batch norm behind it, which then does nothing.

    Args:
        conv: whose parameters it takes.
        norm: of as many channels; stays where it is in the network.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)  # type: ignore
        super().__init__(*shape, conv.dilation, conv.groups, conv.bias is not None, device="meta")  # type: ignore
        self.weight, self.bias = conv.weight, conv.bias
        self._norm = (norm,)  # in a tuple, since it is the network's layer and not a part of this one
        norm.folded = True

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does both."""
        scale, shift = self._norm[0].affine()
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W'], normalised."""
        return self._conv_forward(x, *self.folded())


def fold_norms(module: nn.Module) -> None:
    """Folds every frozen batch norm below `module` that directly follows a convolution."""
    for (name, child), (_, after) in pairwise(list(module.named_children())):
        if isinstance(child, nn.Conv2d) and isinstance(after, FrozenBatchNorm):
            setattr(module, name, FoldedConv2d(child, after))
    for child in module.children():
        fold_norms(child)
