"""The region proposal network's head in its fused form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcnn.inference.layers import Convolution, FusedLinear
from rcnn.inference.winograd import convolution
from rcnn.proposals.rpn import RPNHead


class FusedRPNHead(nn.Module):
    """`RPNHead` whose two 1×1 convolutions are one, after a fused 3×3; maps [B, C, H, W] to logits and deltas.

    Args:
        head: whose weights it takes.
        dtype: of the 3×3 convolution; what follows is float32.
    """

    def __init__(self, head: RPNHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.softmax = head.softmax
        self.convs = nn.Sequential()
        for layer in (head.conv, *head.deeper):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            conv = Convolution(layer.weight.detach(), layer.bias.detach(), padding=(1, 1), activation=nn.ReLU)
            self.convs.append(convolution(conv, dtype))
        self.logits = head.cls_logits.out_channels
        last = nn.Linear(head.conv.out_channels, self.logits + head.bbox_pred.out_channels)
        layers = (head.cls_logits, head.bbox_pred)
        last.weight = nn.Parameter(torch.cat([layer.weight.detach().flatten(1) for layer in layers]))
        last.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))  # type: ignore[union-attr]
        self.last = FusedLinear(last)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps [B, C, H, W] → for each, logits [B, H·W·k] and deltas [B, H·W·k, 4] in float32."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.convs(feature).permute(0, 2, 3, 1)  # [B, H, W, C]
            found = self.last(hidden.flatten(0, 2)).view(*hidden.shape[:3], -1)
            score = found[..., : self.logits]
            if self.softmax:
                background, foreground = score.chunk(2, dim=-1)
                score = foreground - background
            logits.append(score.flatten(1))
            deltas.append(found[..., self.logits :].reshape(len(found), -1, 4))
        return logits, deltas
