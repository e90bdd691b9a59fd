"""The optimiser: SGD with momentum over groups of parameters that share a learning rate and a weight decay.

Caffe's rule, which the papers were trained with, gives biases twice the rate and no decay (Girshick 2015, section 2.3).
Frozen parameters are in no group.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from rcnn.errors import UserError, nearest

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    bias_lr: float = 1.0,
    bias_decay: bool = True,
    norm_decay: bool = True,
    lr_multipliers: Sequence[tuple[str, float]] = (),
) -> list[dict]:
    """Groups of the parameters that train, each with `params`, `weight_decay` and `lr_factor`.

    Args:
        bias_lr: multiplies the rate of biases, those of normalisation layers excepted.
        bias_decay: whether weight decay applies to those biases.
        norm_decay: whether it applies to scale and shift of normalisation layers.
        lr_multipliers: pairs of a pattern of parameter names (`backbone.*`) and what multiplies their rate; all that
            match do.

    Raises:
        UserError: a pattern fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern, _ in lr_multipliers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"train.lr_multipliers: '{pattern}' fits no parameter{nearest(pattern, names)}")
    of_norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_norm = id(parameter) in of_norms
        is_bias = not is_norm and name.rpartition(".")[2] == "bias"
        lr_factor = bias_lr if is_bias else 1.0
        for pattern, multiplier in lr_multipliers:
            lr_factor *= multiplier if fnmatchcase(name, pattern) else 1.0
        decays = norm_decay if is_norm else bias_decay or not is_bias
        groups.setdefault((lr_factor, weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": params, "lr_factor": lr_factor, "weight_decay": decay}
        for (lr_factor, decay), params in groups.items()
    ]


def sgd(groups: list[dict], *, lr: float, momentum: float) -> torch.optim.SGD:
    """Stochastic gradient descent over `parameter_groups`; `set_lr` applies their factors."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each group to `lr` times its `lr_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
