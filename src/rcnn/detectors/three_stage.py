"""What R-CNN and SPP-net share: a classifier fine-tuned on regions, then SVMs and box regressors fitted on its features
(Girshick et al. 2014, section 2.3; He et al. 2014, section 4).

    features of a region ─┬→ fc7   → K linear SVMs → scores ─┐
                          └→ pool5 → K ridge regressors ─────┴→ NMS → detections

Until the SVMs are fitted the softmax layer of the fine-tuning judges in their place. Letters: B images, N proposals,
R regions, K classes, F and D length of pool5 and fc7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn import targets
from rcnn.backbones import Backbone
from rcnn.detectors.base import CAPACITY, Detector
from rcnn.errors import UserError
from rcnn.heads.fitted import margin_scores
from rcnn.heads.ridge import RidgeBoxes
from rcnn.heads.selection import select
from rcnn.heads.svm import LinearSVMs
from rcnn.proposals import RegionMethod, method_of
from rcnn.structures import Batch, DetectionBatch, GroundTruth, ImageBatch, Proposals


@dataclass(frozen=True)
class FineTuneOptions:
    """The mini-batches of the classifier.

    Attributes:
        positives: regions of objects in a step, of any class.
        background: other regions in a step.
        positive: IoU with an object from which a region stands for it; below, it is background.
        truths: crops of objects in a step of `pretrain`.
    """

    positives: int = 32
    background: int = 96
    positive: float = 0.5
    truths: int = 128


class ThreeStageDetector(Detector):
    """Classifies each region by what its features are, moves its box, and keeps the best of each class.

    Subclasses give `region_features`. `losses` wants images with proposals, or for its parts what their stages load.

    Args:
        system: the name, such as "rcnn/alexnet".
        classes: names of the K classes.
        options: have `regions`, `finetune`, `svm`, `ridge`, `score`, `nms` and `detections`.
        pool5_channels: F; channels: D.
    """

    parts = ("pretrain", "finetune")
    backbone: Backbone

    def __init__(
        self, system: str, classes: Sequence[str], options: Any, *, pool5_channels: int, channels: int
    ) -> None:
        super().__init__(system, classes, options)
        self.cls_score = nn.Linear(channels, len(classes) + 1)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)
        self.svm = LinearSVMs(channels, len(classes))
        self.ridge = RidgeBoxes(pool5_channels, len(classes))

    @property
    def region_method(self) -> RegionMethod:
        """What finds the regions [N, 4] of an image [H, W, 3]."""
        return method_of(self.options.regions)

    def region_features(self, images: ImageBatch, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """pool5 [R, F] and fc7 [R, D] of the valid ones among proposals [B, N], image by image, in float32."""
        raise NotImplementedError

    def classification_loss(self, fc7: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`loss_cls` of features [R, D] whose labels [R] are classes, or −1 for background; `accuracy` beside it."""
        return _softmax_loss(self.cls_score(fc7).float(), torch.where(labels < 0, len(self.classes), labels))

    def object_loss(self, fc7: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """As `classification_loss`, of crops [R, D] that certainly show an object: background is no possible answer."""
        return _softmax_loss(self.cls_score(fc7).float()[:, :-1], labels)

    def drawn(self, batch: Batch, generator: torch.Generator | None) -> tuple[Proposals, Tensor]:
        """Regions [B, S] to learn from out of a batch's proposals, and the labels [R] of the valid ones.

        Raises:
            UserError: the batch has no proposals.
        """
        if batch.proposals is None:
            raise UserError(f"{self.system} learns from regions: the batch has no proposals")
        regions, labels = draw(batch.proposals, batch.truth, self.options.finetune, generator)
        return regions, labels[regions.valid]

    def examine(self, images: ImageBatch, proposals: Proposals | None = None) -> Callable[..., DetectionBatch]:
        """Scores and boxes of the regions `proposals` [B, N], which must be given; see `Detector.examine`."""
        if proposals is None:
            raise UserError(f"{self.system} looks at regions and finds none itself: give it proposals")
        options, classes = self.options, len(self.classes)
        scores = proposals.scores.new_zeros((*proposals.valid.shape, classes))  # [B, N, K]
        boxes = proposals.boxes[:, :, None].expand(-1, -1, classes, -1).clone()  # [B, N, K, 4]
        for b in range(len(images)):  # one by one: pool5 of many images' regions would not fit into memory
            one, valid = slice(b, b + 1), proposals.valid[b]
            own = Proposals(proposals.boxes[one], proposals.scores[one], proposals.valid[one])
            pool5, fc7 = self.region_features(ImageBatch(images.pixels[one], images.sizes[one]), own)
            scores[b, valid] = self.class_scores(fc7)
            boxes[b, valid] = self.ridge(pool5, proposals.boxes[b, valid])

        def pick(score: float | None = None, capacity: int = CAPACITY) -> DetectionBatch:
            return select(
                scores,
                boxes,
                proposals.valid,
                images,
                score=options.score if score is None else score,
                nms=options.nms,
                detections=options.detections,
                capacity=capacity,
            )

        return pick

    def class_scores(self, fc7: Tensor) -> Tensor:
        """Scores [R, K] in [0, 1] of features [R, D]: of the SVMs once they are fitted, else of the softmax."""
        if bool(self.svm.weight.any()):
            return margin_scores(self.svm(fc7))
        return self.cls_score(fc7).float().softmax(1)[:, :-1]


def _softmax_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy of logits [R, K] for classes `target` [R], and the share that is right; 0 of no region."""
    count = max(len(target), 1)
    loss = functional.cross_entropy(logits, target, reduction="sum") / count
    return {"loss_cls": loss, "accuracy": (logits.argmax(1) == target).sum() / count}


@torch.no_grad()
def draw(
    proposals: Proposals, truth: GroundTruth, rule: FineTuneOptions, generator: torch.Generator | None = None
) -> tuple[Proposals, Tensor]:
    """Regions [B, S] drawn from each image by R-CNN's rule, objects' own boxes among them, and their labels [B, S].

    S is at most `positives + background`; a label is a class, or −1 for background.
    """
    boxes = torch.cat((proposals.boxes, truth.boxes), 1)  # [B, N+G, 4]
    eligible = torch.cat((proposals.valid, truth.real), 1)
    assignment = targets.assign(boxes, eligible, truth, positive=rule.positive, negative=(0.0, rule.positive))
    count = rule.positives + rule.background
    drawn = targets.sample(assignment, count, rule.positives / count, generator)
    index = assignment.index.gather(1, drawn.index)
    labels = torch.where(drawn.positive, truth.labels.gather(1, index), -1)
    chosen = targets.take(boxes, drawn.index) * drawn.used[..., None]
    return Proposals(chosen, drawn.used.float(), drawn.used), labels
