"""Turns layers into their fused forms: what follows a convolution and can be part of it becomes part of it.

Layers are traced into a graph, in which norm, sum and activation are folded into the convolution or the linear layer
before them.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from rcnn.backbones import Backbone
from rcnn.backbones.folding import FoldedConv2d
from rcnn.backbones.fpn import FPN
from rcnn.backbones.norm import FrozenBatchNorm, MaskedBatchNorm, NormedConv2d, ValidRegion
from rcnn.inference.layers import ACTIVATIONS, AFTER_SUMS, Convolution, FusedLinear, FusedUpConv2d
from rcnn.inference.winograd import convolution

SUMS = {operator.add, operator.iadd, torch.add}
FUNCTIONS: dict[Any, type[nn.Module]] = {F.relu: nn.ReLU, torch.relu: nn.ReLU, F.hardswish: nn.Hardswish}


class Maps(nn.Module):
    """A backbone from normalised pixels on: [B, 3, H, W] to its maps, finest first."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised pixels [B, 3, H, W] to maps [B, C, H, W]."""
        return self.backbone.layers(x)


class Masked(nn.Module):
    """A layer after which the padding is zero, as it was after the masked norm that is folded into it."""

    def __init__(self, layer: nn.Module, region: ValidRegion, stride: int) -> None:
        super().__init__()
        self.layer, self.region, self.stride = layer, region, stride

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the layer makes of maps [B, C, H, W], with zeros in the padding."""
        y = self.layer(*inputs)
        mask = self.region.mask(y, self.stride)
        return y if mask is None else y * mask


class Tracer(fx.Tracer):
    """Walks into blocks down to single layers; a layer that asks where the padding is stays whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        masked = hasattr(m, "map_stride") or (isinstance(m, FPN) and m.region is not None)
        alone = isinstance(m, nn.Conv2d) or not any(True for _ in m.children())
        return masked or alone or super().is_leaf_module(m, module_qualified_name)


def fused(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module, of one tensor, for predictions with fused layers of type float32 or bfloat16.

    Raises:
        Exception: of many kinds, from the tracer, where the forward pass branches on its input.
    """
    module.eval()
    traced = fx.GraphModule(module, Tracer().trace(module))
    layers = {name: layer for name, layer in traced.named_modules() if name}
    for node in list(traced.graph.nodes):
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d) and (conv := described(layer)) is not None:
            _fuse_conv(traced, node, conv, layers, dtype)
        elif type(layer) in (nn.Linear, nn.ConvTranspose2d):
            _fuse_simple(traced, node, layer, layers, dtype)
        elif isinstance(layer, FPN):
            _fuse_pyramid(layer, dtype)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def described(layer: nn.Conv2d) -> Convolution | None:
    """A convolution layer with the norm that is inside it; None if that is no batch norm."""
    weight, bias = layer.folded() if isinstance(layer, FoldedConv2d) else (layer.weight, layer.bias)
    bias = torch.zeros(len(weight)) if bias is None else bias
    shape: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
    conv = Convolution(weight.detach(), bias.detach(), *shape)
    return with_norm(conv, layer.norm) if isinstance(layer, NormedConv2d) else conv


def with_norm(conv: Convolution, norm: nn.Module) -> Convolution | None:
    """The convolution with the batch norm behind it, by its stored statistics; None if it is another norm."""
    if isinstance(norm, nn.Identity) or (isinstance(norm, FrozenBatchNorm) and norm.folded):
        return conv
    if not isinstance(norm, MaskedBatchNorm | FrozenBatchNorm):
        return None
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias.detach() - norm.running_mean * scale
    return replace(conv, weight=conv.weight * scale[:, None, None, None], bias=conv.bias * scale + shift)


def _fuse_conv(
    traced: fx.GraphModule, node: fx.Node, conv: Convolution, layers: dict[str, nn.Module], dtype: torch.dtype
) -> None:
    """Puts one layer in the place of a convolution and of the norm, the sum and the activation that follow it."""
    own = layers[str(node.target)]
    norm: nn.Module = own.norm if isinstance(own, NormedConv2d) else nn.Identity()
    last, sources = node, [node.args[0]]
    after = _follower(last)
    if after is not None and (normed := with_norm(conv, _layer(after, layers))) is not None:
        norm, conv, last = _layer(after, layers), normed, after
    after = _follower(last)
    if after is not None and after.op == "call_function" and after.target in SUMS:
        other = next((side for side in after.args if side is not last), None)
        if isinstance(other, fx.Node) and other < node:
            last, sources = after, [*sources, other]
    kinds = tuple(ACTIVATIONS) if len(sources) == 1 else AFTER_SUMS
    kind, last = _with_activation(last, layers, kinds)
    layer = convolution(replace(conv, activation=kind), dtype, summed=len(sources) > 1)
    if isinstance(norm, MaskedBatchNorm):
        layer = Masked(layer, norm.region, norm.map_stride)
    _put(traced, node, last, sources, layer)


def _fuse_simple(
    traced: fx.GraphModule, node: fx.Node, layer: Any, layers: dict[str, nn.Module], dtype: torch.dtype
) -> None:
    """Puts one layer in the place of a linear layer, or a transposed convolution by 2, and its activation."""
    if isinstance(layer, nn.ConvTranspose2d) and (layer.kernel_size, layer.stride) != ((2, 2), (2, 2)):
        return
    kind, last = _with_activation(node, layers, tuple(ACTIVATIONS))
    form = FusedLinear if isinstance(layer, nn.Linear) else FusedUpConv2d
    _put(traced, node, last, [node.args[0]], form(layer, dtype, kind))


def _fuse_pyramid(fpn: FPN, dtype: torch.dtype) -> None:
    """Fuses each convolution of a pyramid that masks its maps."""
    for block in (*fpn.inner_blocks, *fpn.layer_blocks):
        assert isinstance(block, nn.Sequential)
        conv = described(block[0])  # type: ignore[arg-type]
        normed = conv if conv is None or len(block) == 1 else with_norm(conv, block[1])
        if normed is not None:
            block[0] = convolution(normed, dtype)
            del block[1:]


def _layer(node: fx.Node, layers: dict[str, nn.Module]) -> nn.Module:
    """The layer that a node calls; one that is no norm and no activation if it calls none."""
    return layers[str(node.target)] if node.op == "call_module" else nn.Flatten()


def _follower(node: fx.Node) -> fx.Node | None:
    """The only user of a node's result; None if there are more."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _with_activation(
    node: fx.Node, layers: dict[str, nn.Module], kinds: tuple[type[nn.Module], ...]
) -> tuple[type[nn.Module], fx.Node]:
    """The activation behind a node and the node that computes it; none and the node itself if it is not of `kinds`."""
    after = _follower(node)
    if after is not None:
        kind = type(_layer(after, layers)) if after.op == "call_module" else FUNCTIONS.get(after.target)
        if kind in kinds:
            return kind, after
    return nn.Identity, node


def _put(traced: fx.GraphModule, first: fx.Node, last: fx.Node, sources: list[Any], layer: nn.Module) -> None:
    """Puts a layer of `sources` in the place of the nodes from `first` to `last`."""
    name = f"fused_{str(first.target).replace('.', '_')}"
    traced.add_submodule(name, layer)
    with traced.graph.inserting_after(last):
        put = traced.graph.call_module(name, tuple(sources))
    last.replace_all_uses_with(put)
