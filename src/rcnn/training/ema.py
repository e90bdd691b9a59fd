"""The exponential moving average of a model's weights (Polyak and Juditsky 1992), which often evaluates better.

Early on the average forgets faster, (1 + t) / (10 + t), so that it does not hold on to the random start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Keeps the average of every floating-point parameter and buffer of `model`.

    Args:
        decay: share of the old average that each update keeps, such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.averages = {name: value.detach().clone() for name, value in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the averages towards the weights of `model` after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = _averaged(model)
        torch._foreach_lerp_(list(self.averages.values()), [now[name] for name in self.averages], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block `model` has the averaged weights, after it its own again."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, value in _averaged(model).items():
            own = value.clone()
            value.copy_(self.averages[name])
            self.averages[name].copy_(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, to be saved."""
        return self.averages

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts saved averages back, on the device of the present ones."""
        for name, average in self.averages.items():
            average.copy_(state[name])


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
