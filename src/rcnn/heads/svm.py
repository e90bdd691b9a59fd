"""Linear SVMs on a region's features, fitted with hard negative mining (Girshick et al. 2014, section 2.3, appendix B).

Of the millions of regions that are no object almost all are told apart easily. So each class remembers only its hard
negatives, and is fitted anew whenever there are enough new ones. Letters: N samples, R regions, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn.errors import RCNNError
from rcnn.heads.svm_objective import Loss
from rcnn.heads.svm_solver import fit

__all__ = ["NORM", "HardNegativeMining", "LinearSVMs", "fit"]

# Features are scaled to this mean norm: C is chosen for it.
NORM = 20.0


class LinearSVMs(nn.Module):
    """Features [R, D] → margins [R, K]: above 0 is the class, above 1 is safely so.

    Until they are fitted all weights are 0 and all margins −1.

    Args:
        channels: D.
        classes: K.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, channels))
        self.register_buffer("bias", -torch.ones(classes))
        self.register_buffer("scale", torch.ones(()))  # times a feature's norm

    def set_norm(self, mean: float) -> None:
        """Scales features whose mean norm is `mean` to a mean norm of 20."""
        self.scale.fill_(NORM / max(mean, 1e-12))

    def forward(self, features: Tensor) -> Tensor:
        """Margins [R, K] of features [R, D]."""
        return F.linear(features.float() * self.scale, self.weight, self.bias)


class HardNegativeMining:
    """Fits `LinearSVMs` in one pass over the images: R-CNN's rule.

    Feed it the positives first, then the regions of one image after the other, and call `finish` behind the last. The
    first negatives of a class are all taken, and it is fitted at once; afterwards those that score above `hard`. After
    more than `retrain` new ones the class is fitted anew and forgets those below `evict`.
    Classes whose turn comes at the same image are fitted together. Of a class without positives no negatives are taken.

    A sample is kept once for all classes that want it; memory is that of the features kept.

    Args:
        svms: are filled; their norm must have been set.
        C, positive_weight, bias_scale, loss: see `fit`.
        hard: score above which a negative is hard.
        evict: score below which a remembered negative is forgotten.
        retrain: new negatives of a class after which it is fitted anew.
    """

    def __init__(
        self,
        svms: LinearSVMs,
        *,
        C: float = 1e-3,
        positive_weight: float = 2.0,
        bias_scale: float = 10.0,
        loss: Loss = "hinge",
        hard: float = -1.0001,
        evict: float = -1.2,
        retrain: int = 2000,
    ) -> None:
        self.svms = svms
        self.hard, self.evict, self.retrain = hard, evict, retrain
        self._settings = {"C": C, "positive_weight": positive_weight, "bias_scale": bias_scale, "loss": loss}
        classes, channels = svms.weight.shape
        self._count = 0
        self._features = svms.weight.new_empty(0, channels)  # [capacity, D], scaled
        self._targets = svms.weight.new_empty(0, classes, dtype=torch.int8)  # [capacity, K]
        self._fresh = torch.zeros(classes, dtype=torch.int64)  # negatives since the class was fitted
        self._changed = torch.zeros(classes, dtype=torch.bool)  # anything new since then
        self._fitted = torch.zeros(classes, dtype=torch.bool)

    def __len__(self) -> int:
        return self._count

    @torch.no_grad()
    def add(self, features: Tensor, targets: Tensor) -> Tensor:
        """Takes the positives and hard negatives among some regions; fits the classes whose turn it is.

        Args:
            features: [R, D], unscaled.
            targets: [K, R] int8: 1 positive, -1 negative, 0 neither.

        Returns:
            [K] bool: the classes that were fitted.
        """
        svms = self.svms
        features, wanted = features.to(svms.weight.device), targets.T.to(svms.weight.device, torch.int8)  # [R, K]
        known = (self._targets[: self._count] > 0).any(0) | (wanted > 0).any(0)  # [K], classes with positives
        easy = self._fitted.to(known.device) & (svms(features) <= self.hard)
        wanted = torch.where((wanted < 0) & (easy | ~known), 0, wanted)
        kept = (wanted != 0).any(1)
        self._append(features[kept].float() * svms.scale, wanted[kept])
        self._fresh += (wanted < 0).sum(0).cpu()
        self._changed |= (wanted != 0).any(0).cpu()
        due = torch.where(self._fitted, self._fresh > self.retrain, self._fresh > 0)
        self._fit(due)
        return due

    def finish(self) -> None:
        """Fits every class that has seen anything new since it was last fitted."""
        self._fit(self._changed & (self._fitted | (self._fresh > 0)))

    def state_dict(self) -> dict[str, Tensor]:
        """The samples kept and the SVMs as they stand, as tensors: all that `load_state_dict` needs to go on."""
        return {
            "features": self._features[: self._count].clone(),
            "targets": self._targets[: self._count].clone(),
            "fresh": self._fresh.clone(),
            "changed": self._changed.clone(),
            "fitted": self._fitted.clone(),
            **{f"svms.{name}": value.clone() for name, value in self.svms.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            RCNNError: the state is of other classes or features.
        """
        own = {name: value.shape[1:] for name, value in self.state_dict().items() if name in ("features", "targets")}
        if any(name not in state or state[name].shape[1:] != shape for name, shape in own.items()):
            raise RCNNError("the state of hard negative mining is of another number of classes or features")
        device = self.svms.weight.device
        self._features, self._targets = state["features"].to(device), state["targets"].to(device)
        self._count = len(self._features)
        self._fresh, self._changed, self._fitted = (state[k].cpu().clone() for k in ("fresh", "changed", "fitted"))
        self.svms.load_state_dict({k.removeprefix("svms."): v for k, v in state.items() if k.startswith("svms.")})

    def _append(self, features: Tensor, targets: Tensor) -> None:
        """Remembers samples [n, D] and their targets [n, K]; the room for them doubles when it is full."""
        total = self._count + len(features)
        if total > len(self._features):
            room = max(total, 2 * len(self._features)) - self._count
            for name in ("_features", "_targets"):
                held = getattr(self, name)[: self._count]
                setattr(self, name, torch.cat((held, held.new_empty(room, held.shape[1]))))
        self._features[self._count : total], self._targets[self._count : total] = features, targets
        self._count = total

    def _fit(self, due: Tensor) -> None:
        """Fits the classes `due` [K] bool anew, and forgets what has become easy."""
        classes = torch.nonzero(due)[:, 0].to(self._targets.device)
        if not len(classes):
            return
        features, targets = self._features[: self._count], self._targets[: self._count]
        used = (targets[:, classes] != 0).any(1)
        if not bool(used.all()):
            features, targets = features[used], targets[used]
        svms, own = self.svms, targets[:, classes]
        weight, bias = fit(features, own.T, **self._settings)
        svms.weight[classes], svms.bias[classes] = weight, bias
        forgotten = (own < 0) & (F.linear(features, weight, bias) < self.evict)  # [n, classes]
        table = self._targets[: self._count]
        rows = torch.nonzero(used)[:, 0]
        table[rows[:, None], classes] = torch.where(forgotten, 0, own)
        self._compact((table != 0).any(1))
        self._fresh[due], self._changed[due], self._fitted[due] = 0, False, True

    def _compact(self, kept: Tensor) -> None:
        """Drops the samples that no class remembers, `kept` [n] bool being the others."""
        count = int(kept.sum())
        if count < self._count:
            self._features[:count] = self._features[: self._count][kept]
            self._targets[:count] = self._targets[: self._count][kept]
            self._count = count
