"""The convolution of this library's own layers: torch's, with the quick 3×3 kernel where that fits."""

from __future__ import annotations

from torch import Tensor, nn

from rcnn import kernels


class Conv2d(nn.Conv2d):
    """As `torch.nn.Conv2d`; 3×3 windows of stride 1 go through `kernels.conv3x3`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ones = self.stride == self.padding == self.dilation == (1, 1)
        if ones and self.kernel_size == (3, 3) and self.groups == 1:
            return kernels.conv3x3(input, weight, bias)
        return super()._conv_forward(input, weight, bias)
