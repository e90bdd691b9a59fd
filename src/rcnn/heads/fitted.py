"""What R-CNN and SPP-net put on a region's features: linear SVMs say what it is, ridge regressors move its box
(Girshick et al. 2014, sections 2.3 and 3.5, appendices B and C). Both are fitted, not trained by gradients.

The numbers are those of the paper and its released code. Letters: R regions, K classes, D length of fc7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rcnn.heads.svm_objective import Loss

# An SVM's margins are at −1 and +1: there a detection's score is 0.05 and 0.95.
STEEPNESS = math.log(0.95 / 0.05)


@dataclass(frozen=True)
class SVMOptions:
    """How the SVMs are fitted.

    Attributes:
        C: weight of the errors against the norm of the weights.
        positive_weight: how much more an error on a positive weighs.
        bias_scale: the constant feature that the bias belongs to.
        loss: of an error: "hinge" as R-CNN's code, or "squared_hinge", which a GPU can minimise.
        negative: IoU with every object of a class below which a region is a negative for that class.
        hard: a negative whose score is above this is hard, and joins those that are fitted to.
        evict: one whose score falls below this leaves them.
        retrain: the SVMs of a class are fitted anew after so many new hard negatives.
        stored: type of the features on disk; float16 halves the file.
    """

    C: float = 1e-3
    positive_weight: float = 2.0
    bias_scale: float = 10.0
    loss: Loss = "hinge"
    negative: float = 0.3
    hard: float = -1.0001
    evict: float = -1.2
    retrain: int = 2000
    stored: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class RidgeOptions:
    """How the box regressors are fitted.

    Attributes:
        strength: λ against the sum, not the mean, of squared errors of whitened targets; SPP-net's code has 4,000.
        overlap: regions of a higher IoU with an object are learnt from; SPP-net's code has 0.5.
    """

    strength: float = 1000.0
    overlap: float = 0.6


def margin_scores(margins: Tensor) -> Tensor:
    """Scores [R, K] in [0, 1] that grow with the SVMs' margins [R, K]: 0.05 at −1, 0.5 at 0, 0.95 at +1.

    A negative beyond the margin, which no SVM was fitted to, lies below the 0.05 from which detections are reported.
    """
    return (margins.float() * STEEPNESS).sigmoid()
