"""One step: losses, backward, clip, update, average; and the guard that watches its figures.

Nothing here waits for the GPU: figures stay on the device until somebody reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.data.seeds import counter_seed
from rcnn.detectors import Detector
from rcnn.errors import RCNNError
from rcnn.structures import Batch
from rcnn.training.ema import EMA
from rcnn.training.optim import parameter_groups, set_lr, sgd
from rcnn.training.recipe import TrainSettings
from rcnn.training.schedule import factor
from rcnn.training.stages import Learn
from rcnn.training.validation import total_loss
from rcnn.training.world import World


class StageTrainer:
    """What one stage trains with: the optimiser of its parameters, their average, and the running sums of the losses.

    Args:
        model: its frozen parameters are left alone.
        train: see `TrainSettings`.
        stage: the stage; `index` is its place in the scheme, which random numbers depend on.
    """

    def __init__(self, model: Detector, train: TrainSettings, stage: Learn, index: int, world: World) -> None:
        self.model, self.train, self.stage, self.index, self.world = model, train, stage, index, world
        groups = parameter_groups(
            model,
            weight_decay=train.weight_decay,
            bias_lr=train.bias_lr,
            bias_decay=train.bias_decay,
            norm_decay=train.norm_decay,
            lr_multipliers=train.lr_multipliers,
        )
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = sgd(groups, lr=stage.lr, momentum=train.momentum)
        self.ema = EMA(model, train.ema) if train.ema else None
        self.generator = torch.Generator(device=model.device)
        self.guard = FiniteGuard(model.device)
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        self.wrapped: nn.Module = model
        if world.size > 1:
            self.wrapped = nn.parallel.DistributedDataParallel(
                model, gradient_as_bucket_view=True, find_unused_parameters=any(stage.parts)
            )

    def lr(self, step: int) -> float:
        """The learning rate of optimiser step `step`."""
        train = self.train
        return self.stage.lr * factor(
            step,
            self.stage.steps,
            schedule=train.schedule,
            milestones=train.milestones,
            gamma=train.gamma,
            warmup_steps=train.warmup_steps,
            warmup_factor=train.warmup_factor,
        )

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Makes optimiser step `step` from its forward passes' batches, and returns each loss's mean over them.

        Returns:
            scalars [] on the device: all that the model gave, and their total as `loss`.

        Raises:
            RCNNError: a figure is not finite; raised at once on the CPU, else by the next `guard.check`.
        """
        set_lr(self.optimizer, self.lr(step))
        values: dict[str, Tensor] = {}
        for turn, part in enumerate(self.stage.parts):
            self._update(step, turn, part, batches, values)
        if self.ema is not None:
            self.ema.update(self.model, step)
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.summed += 1
        return values

    def _update(self, step: int, turn: int, part: str, batches: Sequence[Batch], values: dict[str, Tensor]) -> None:
        """Updates the weights by the losses of `part`, number `turn` of the stage's, and adds those up in `values`."""
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            self.seed(step, turn * len(batches) + number)
            with self.model.autocast():
                losses = self.wrapped(batch, self.generator, part)
            total = total_loss(losses)
            (total / len(batches)).backward()
            for name, value in {"loss": total, **losses}.items():
                mean = value.detach().float() / len(batches)
                values[name] = values[name] + mean if name in values else mean
        # A gradient may overflow where the loss is still finite.
        norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip or math.inf)
        figure = values["loss"] + 0 * norm
        self.guard.watch(step, figure, [name for batch in batches for name in batch.names])
        self.optimizer.step()

    def seed(self, step: int, part: int) -> None:
        """Makes every draw of a forward pass a function of the run's seed and of which pass it is.

        The model's own draws take `generator`; torch's global one serves dropout.
        """
        seed = counter_seed(self.train.seed, self.index, step, part, self.world.rank)
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the model has its averaged weights, if an average is kept."""
        return self.ema.applied(self.model) if self.ema else nullcontext()

    def means(self) -> dict[str, float]:
        """The mean of each loss over the steps since the last call."""
        means = {name: (value / self.summed).item() for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, beside the model's own tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else {},
            "sums": self.sums,
            "summed": self.summed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.sums = {name: value.to(self.model.device) for name, value in state["sums"].items()}
        self.summed = state["summed"]


class FiniteGuard:
    """Stops training at the first loss or gradient that is not finite, and names the images of that step.

    On the CPU every figure is looked at when it comes; on a GPU, where looking would wait for it, the device notes the
    first bad step and `check` reads the note.
    """

    def __init__(self, device: torch.device) -> None:
        self.at_once = device.type == "cpu"
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.names: dict[int, list[str]] = {}

    def watch(self, step: int, figure: Tensor, names: list[str]) -> None:
        """Notes step `step` if `figure` [] is not finite; `names` are its images."""
        self.names[step] = names
        is_new = ~figure.isfinite() & (self.first < 0)
        self.first = torch.where(is_new, step, self.first)
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raises the RCNNError if a figure was not finite since the last check."""
        first = int(self.first)
        if first >= 0:
            raise RCNNError(
                f"the loss of step {first + 1} is not finite, with the images {', '.join(self.names[first])}; check"
                " their boxes with `rcnn data check`, or train with a lower --lr (the saved state is from before it)"
            )
        self.names.clear()
