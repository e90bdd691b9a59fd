"""Normalisation for detection: small batches, and images padded to one shape.

Published weights come with their batch statistics, which detectors freeze (He et al. 2016, appendix A: batches are too
small to estimate them anew). A random start has none to freeze and needs group norm (Wu and He 2018) or batch norm.
Both of ours leave the padding out of every statistic and set it to zero again, as a convolution's own border is, so
that an image in a padded batch has the features it would have alone.
Letters: B images, C channels, H W the rows and columns of a map, n groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

NORMS = ("frozen", "batch", "group", "none")
NormLayer = Callable[[int], nn.Module]


class ValidRegion:
    """Which cells of any feature map lie inside the true images of the batch that is being processed.

    One is shared by a backbone and all its masked layers: the backbone sets the sizes before it runs its
    layers and takes them away after, so a backbone does one forward pass at a time.
    """

    def __init__(self) -> None:
        self.sizes: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    def set(self, sizes: Tensor | None) -> None:
        """Starts a batch of images of `sizes` [B, 2] (height, width in pixels); None says that nothing is padded."""
        self.sizes = sizes
        self._masks = {}

    def mask(self, map_: Tensor, stride: int) -> Tensor | None:
        """[B, 1, H, W] of `map_`'s type, 1 inside the image and 0 in the padding; None where nothing is padded.

        Row i of a map of this stride belongs to the image as long as i · stride < height: ⌈height / stride⌉ rows, as
        many as convolutions with half-kernel padding make of the unpadded image.
        """
        if self.sizes is None:
            return None
        if stride not in self._masks:
            rows = torch.arange(map_.shape[2], device=map_.device) * stride < self.sizes[:, :1]  # [B, H]
            columns = torch.arange(map_.shape[3], device=map_.device) * stride < self.sizes[:, 1:]  # [B, W]
            self._masks[stride] = (rows[:, :, None] & columns[:, None, :])[:, None]  # [B, 1, H, W]
        return self._masks[stride].to(map_.dtype)


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics and affine part are constants: y = x · scale + shift per channel, [B, C, H, W].

    The buffers carry batch norm's names, so published state dicts load. Padding is left as the published networks
    leave it: zero in the image only.

    Attributes:
        num_batches_tracked: how many batches the statistics come from, where the weights that were loaded say so.
            Nothing reads it; whoever takes the weights elsewhere gets it back.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.folded = False  # whether the convolution before does the work
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:  # type: ignore[override]
        count = state_dict.get(f"{prefix}num_batches_tracked")
        self.num_batches_tracked = None if count is None else torch.zeros_like(count, device=self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, [C] each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape; the backward pass keeps no activation."""
        if self.folded:
            return x
        scale, shift = self.affine()
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])

    def extra_repr(self) -> str:
        """The channels and eps, for `print(model)`."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


def uncounted(module: nn.Module) -> set[str]:
    """Keys that a state dict of `module` may have beyond its own: how many batches frozen statistics come from."""
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, FrozenBatchNorm))
    return {f"{name}.num_batches_tracked".lstrip(".") for name, layer in layers if layer.num_batches_tracked is None}


def groups(channels: int) -> int:
    """The most groups, at most 32, that divide `channels` and keep 16 of them or more (Wu and He 2018, table 3)."""
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 16))


class _MaskedNormalise(torch.autograd.Function):
    """y = mask · ((x − μ) / σ · weight + bias) with μ and σ over the cells where the mask is 1.

    Written out because autograd's own chain walks memory twice as often. `n` groups of channels share statistics
    within an image; n = 0 is each channel over the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, n: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, C, H, W], mask [B, 1, H, W] float32 to y [B, C, H, W], μ [B, C] and σ² [B, C]."""
        inside = x * mask  # float32 whatever x is
        y = inside.square()
        count = _pool(mask.sum((2, 3)).expand(x.shape[:2]), n)  # [B, C]
        mean = _pool(inside.sum((2, 3)), n) / count
        variance = (_pool(y.sum((2, 3)), n) / count - mean.square()).clamp(min=0)
        rate = torch.rsqrt(variance + eps)  # [B, C]
        scale = rate * weight
        y = torch.mul(inside, scale[:, :, None, None], out=y).add_((bias - mean * scale)[:, :, None, None]).mul_(mask)
        ctx.save_for_backward(inside, mask, weight, mean, rate, count)
        ctx.n, ctx.dtype = n, x.dtype
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient [B, C, H, W] by x, then by weight and bias [C]."""
        inside, mask, weight, mean, rate, count = ctx.saved_tensors
        g = gradient * mask
        product = g * inside
        by_bias = g.sum((2, 3))  # [B, C]
        by_weight = (product.sum((2, 3)) - mean * by_bias) * rate
        # d/dx of (x − μ) / σ: what is left of the gradient when its mean and its part along x − μ are taken away.
        shared = _pool(by_bias * weight, ctx.n) / count
        along = _pool(by_weight * weight, ctx.n) / count * rate
        constant = (mean * along - shared) * rate
        by_x = torch.mul(inside, (-along * rate)[:, :, None, None], out=product)
        by_x.addcmul_(g, (rate * weight)[:, :, None, None]).add_(constant[:, :, None, None]).mul_(mask)
        return by_x.to(ctx.dtype), None, by_weight.sum(0), by_bias.sum(0), None, None


def _pool(sums: Tensor, n: int) -> Tensor:
    """[B, C] to [B, C]: each entry becomes the sum of its group, or of its channel over the batch if n is 0."""
    batch, channels = sums.shape
    if n == 0:
        return sums.sum(0, keepdim=True).expand(batch, channels)
    pooled = sums.view(batch, n, -1).sum(2, keepdim=True)
    return pooled.expand(batch, n, channels // n).reshape(batch, channels)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm over the cells inside the image; the padding comes out as zero. [B, C, H, W] to the same.

    `map_stride` is that of the map it normalises (`assign_strides`).
    """

    def __init__(self, channels: int, region: ValidRegion, eps: float = 1e-5) -> None:
        super().__init__(groups(channels), channels, eps)
        self.region = region
        self.map_stride = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape, statistics per image and group."""
        mask = self.region.mask(x, self.map_stride)
        if mask is None:
            return super().forward(x)
        return _MaskedNormalise.apply(x, mask.float(), self.weight, self.bias, self.num_groups, self.eps)[0]


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the cells inside the images; the padding comes out as zero. [B, C, H, W] to the same.

    Running statistics are float32, updated in training mode and used in eval mode.
    """

    momentum: float  # type: ignore[assignment]
    running_mean: Tensor  # type: ignore[assignment]
    running_var: Tensor  # type: ignore[assignment]
    num_batches_tracked: Tensor  # type: ignore[assignment]

    def __init__(self, channels: int, region: ValidRegion, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.region = region
        self.map_stride = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape, statistics per channel."""
        mask = self.region.mask(x, self.map_stride)
        if mask is None:
            return super().forward(x)
        if not self.training:
            return super().forward(x) * mask
        y, mean, variance = _MaskedNormalise.apply(x, mask.float(), self.weight, self.bias, 0, self.eps)
        with torch.no_grad():
            cells = mask.float().sum()
            self.running_mean.lerp_(mean[0], self.momentum)
            self.running_var.lerp_(variance[0] * (cells / (cells - 1).clamp(min=1)), self.momentum)  # unbiased
            self.num_batches_tracked.add_(1)
        return y


class MaskedMaxPool(nn.Module):
    """Max pooling whose padding comes out as zero: overlapping windows would carry the last row into it."""

    def __init__(self, pool: nn.MaxPool2d, region: ValidRegion) -> None:
        super().__init__()
        self.pool = pool
        self.region = region
        self.map_stride = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H', W']."""
        pooled = self.pool(x)
        mask = self.region.mask(pooled, self.map_stride)
        return pooled if mask is None else pooled * mask


class MaskedMeanPool(nn.Module):
    """The mean of each channel over the cells inside the image (for squeeze-and-excitation)."""

    def __init__(self, region: ValidRegion) -> None:
        super().__init__()
        self.region = region
        self.map_stride = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 1, 1]."""
        mask = self.region.mask(x, self.map_stride)
        if mask is None:
            return x.mean((2, 3), keepdim=True)
        cells = mask.float().sum((2, 3), keepdim=True)  # [B, 1, 1, 1]
        return ((x.float() * mask).sum((2, 3), keepdim=True) / cells).to(x.dtype)


class NormedConv2d(nn.Conv2d):
    """A convolution with the normalisation that its published network lacks, under the convolution's own name.

    So a network without normalisation trains from a random start, and its published weights still load by name.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)  # type: ignore
        super().__init__(*shape, conv.dilation, conv.groups, conv.bias is not None)  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        return self.norm(super().forward(x))


def norm_layer(kind: str, region: ValidRegion, eps: float = 1e-5) -> NormLayer:
    """What makes a normalisation layer of a channel count; `kind` is one of `NORMS`."""
    makers: dict[str, NormLayer] = {
        "frozen": lambda channels: FrozenBatchNorm(channels, eps),
        "batch": lambda channels: MaskedBatchNorm(channels, region, eps),
        "group": lambda channels: MaskedGroupNorm(channels, region, eps),
        "none": lambda channels: nn.Identity(),
    }
    return makers[kind]


def add_norms(module: nn.Module, layer: NormLayer) -> None:
    """Puts a normalisation layer behind every convolution below `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, NormedConv2d(child, layer(child.out_channels)))
        else:
            add_norms(child, layer)


def mask_poolings(module: nn.Module, region: ValidRegion) -> None:
    """Makes every pooling below `module` leave the padding out, as the masked norms do."""
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, MaskedMaxPool(child, region))
        elif isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, MaskedMeanPool(region))
        else:
            mask_poolings(child, region)


def assign_strides(module: nn.Module, stride: int = 1) -> int:
    """Tells every masked layer below `module` the stride of its map; returns the stride after `module`.

    `stride` is that of the map that enters. Layers are taken in the order of registration, a residual block's
    shortcut beside its branch.
    """
    if isinstance(module, nn.MaxPool2d):
        return stride * module.stride  # type: ignore[operator]  # poolings here have one stride for both sides
    after = stride * module.stride[0] if isinstance(module, nn.Conv2d) else stride
    residual = isinstance(module, BasicBlock | Bottleneck)
    for name, child in module.named_children():
        if residual and name == "downsample":
            assign_strides(child, stride)
        else:
            after = assign_strides(child, after)
    if hasattr(module, "map_stride"):
        module.map_stride = after  # type: ignore[assignment]
    return after
