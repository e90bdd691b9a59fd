"""The box head: softmax over K+1 classes and box regression from pooled RoI features (Girshick 2015, sections 2.1–2.3).

Letters: B images, N RoIs an image, S sampled RoIs, G ground truths, K classes (background is the last logit, index K),
C channels, P pooled side, D detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn import boxes as box_ops
from rcnn import kernels, targets
from rcnn.boxes import BoxCoder
from rcnn.heads import low_rank
from rcnn.structures import DetectionBatch, GroundTruth, ImageBatch, Proposals


@dataclass(frozen=True)
class BoxHeadOptions:
    """Settings of the second stage; the defaults are the modern recipe's.

    Attributes:
        hidden: widths of the shared fully connected layers; unused where the backbone brings its own (fc6, fc7).
        ranks: ranks of the fully connected layers in order, each made of two by truncated SVD, 0 for one layer; set by
            `rcnn compress`. A model that is created with ranks has random layers there.
        regression: "per-class" deltas (4K), "class-agnostic" (4), or "none".
        init_std: standard deviations of the new classification and regression layers.
        positive: IoU from which an RoI is an object.
        negative: IoU interval [low, high) in which an RoI is background.
        samples: RoIs an image in the loss.
        positive_fraction: the most of them that may be positive.
        append_truth: ground-truth boxes join the proposals in training.
        loss_beta: where the smooth L1 loss turns from square to linear, in units of the deltas.
        box_weight: λ of the multi-task loss.
        coder_weights: box coding weights; (10, 10, 5, 5) are the classic standard deviations (0.1, 0.1, 0.2, 0.2).
        score: detections below are dropped inside the network.
        nms: IoU above which the lesser detection of the same class is dropped.
        detections: the most detections of an image.
        min_size: detections with a shorter side, in pixels of the input, are dropped.
    """

    hidden: tuple[int, ...] = (1024, 1024)
    ranks: tuple[int, ...] = ()
    regression: Literal["per-class", "class-agnostic", "none"] = "per-class"
    init_std: tuple[float, float] = (0.01, 0.001)
    positive: float = 0.5
    negative: tuple[float, float] = (0.0, 0.5)
    samples: int = 512
    positive_fraction: float = 0.25
    append_truth: bool = True
    loss_beta: float = 1.0 / 9
    box_weight: float = 1.0
    coder_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score: float = 0.05
    nms: float = 0.5
    detections: int = 100
    min_size: float = 0.01


class SharedFC(nn.Sequential):
    """Fully connected layers with ReLU on flattened RoI features: [R, C, P, P] → [R, hidden[-1]].

    They start as He et al. 2015 (section 2.2) derive for ReLU: torch's own start shrinks what passes through a layer
    to 0.4 times, and training from scratch then stands still for hundreds of steps.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        layers: list[nn.Module] = [nn.Flatten(1)]
        for width in hidden:
            layer = nn.Linear(inputs, width)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU(inplace=True)]
            inputs = width
        super().__init__(*layers)
        self.channels = inputs


@dataclass
class RoISamples:
    """The RoIs of a training step and what they should become.

    Attributes:
        boxes: [B, S, 4] pixels.
        used: [B, S] bool.
        positive: [B, S] bool.
        labels: [B, S] int64, class or K for background.
        goals: [B, S, 4] regression targets, zeros where not positive.
    """

    boxes: Tensor
    used: Tensor
    positive: Tensor
    labels: Tensor
    goals: Tensor


@dataclass
class BoxOutput:
    """What the head says of RoIs: `logits` [B, N, K+1] and `deltas` [B, N, K or 1, 4], float32."""

    logits: Tensor
    deltas: Tensor


class BoxHead(nn.Module):
    """RoI features → class scores and better boxes; draws its training RoIs and knows its own loss.

    Args:
        trunk: RoI features [R, C, P, P] → [R, channels]; `SharedFC` or the layers that a backbone brings.
        channels: width of the trunk's result.
        classes: K.
        options: see `BoxHeadOptions`.
    """

    def __init__(self, trunk: nn.Module, channels: int, classes: int, options: BoxHeadOptions) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        self.coder = BoxCoder(options.coder_weights)
        self.trunk = trunk
        low_rank.split(trunk, options.ranks)
        self.cls_score = nn.Linear(channels, classes + 1)
        slots = {"per-class": classes, "class-agnostic": 1, "none": 0}[options.regression]
        self.bbox_pred = nn.Linear(channels, 4 * slots) if slots else None
        for layer, std in zip((self.cls_score, self.bbox_pred), options.init_std, strict=True):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> BoxOutput:
        """Pooled features [B, N, C, P, P] → class logits and deltas of the B × N RoIs."""
        return self.predict(self.describe(features))

    def describe(self, features: Tensor) -> Tensor:
        """Pooled features [B, N, C, P, P] → what the trunk makes of them (fc7), [B, N, channels] in float32."""
        return self.trunk(features.flatten(0, 1)).float().unflatten(0, features.shape[:2])

    def predict(self, hidden: Tensor) -> BoxOutput:
        """The trunk's features [B, N, channels] → class logits and deltas."""
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits of 8 bits would tie, and boxes jump
            logits = self.cls_score(hidden)  # [B, N, K+1]
            if self.bbox_pred is None:
                return BoxOutput(logits, logits.new_zeros(*logits.shape[:2], 1, 4))
            deltas = self.bbox_pred(hidden).unflatten(2, (-1, 4))  # [B, N, K or 1, 4]
        return BoxOutput(logits, deltas)

    @torch.no_grad()
    def draw(self, proposals: Proposals, truth: GroundTruth, generator: torch.Generator | None = None) -> RoISamples:
        """Chooses the RoIs to train on (Girshick 2015, section 2.3; ground truth appended as in Ren et al. 2015)."""
        options = self.options
        boxes, eligible = proposals.boxes, proposals.valid
        if options.append_truth:
            boxes = torch.cat((boxes, truth.boxes), 1)  # [B, N+G, 4]
            eligible = torch.cat((eligible, truth.real), 1)
        assignment = targets.assign(
            boxes, eligible, truth, positive=options.positive, negative=options.negative, best_of_each=False
        )
        drawn = targets.sample(assignment, options.samples, options.positive_fraction, generator)
        matched = assignment.index.gather(1, drawn.index)
        rois = targets.take(boxes, drawn.index) * drawn.used[..., None]
        labels = torch.where(drawn.positive, truth.labels.gather(1, matched), self.classes)
        goals = targets.encode(rois, matched, drawn.positive, truth, self.coder)
        return RoISamples(rois, drawn.used, drawn.positive, labels, goals)

    def losses(self, output: BoxOutput, samples: RoISamples) -> dict[str, Tensor]:
        """The multi-task loss (Girshick 2015, equation 1): `loss_cls`, `loss_box`, and the count `foreground_rois`.

        Deltas are [B, S, K or 1, 4]. Without regression `loss_box` is 0.
        Both are divided by the number of sampled RoIs: a positive RoI weighs the same however many there are.
        """
        used = samples.used.sum().clamp(min=1)
        cls = F.cross_entropy(output.logits.flatten(0, 1), samples.labels.flatten(), reduction="none")  # [B·S]
        if self.options.regression == "per-class":
            slot = samples.labels.clamp(max=self.classes - 1)
            deltas = output.deltas.gather(2, slot[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # [B, S, 4]
        else:
            deltas = output.deltas.squeeze(2)
        box = F.smooth_l1_loss(deltas, samples.goals, beta=self.options.loss_beta, reduction="none").sum(-1)
        weight = self.options.box_weight if self.bbox_pred is not None else 0.0
        return {
            "loss_cls": (cls * samples.used.flatten()).sum() / used,
            "loss_box": weight * (box * samples.positive).sum() / used,
            "foreground_rois": samples.positive.sum() / samples.positive.shape[0],
        }

    @torch.no_grad()
    def detect(
        self, output: BoxOutput, proposals: Proposals, images: ImageBatch, *, score: float | None, capacity: int
    ) -> DetectionBatch:
        """Softmax → candidates above the score → decode → clip → NMS within each class → the best of the image.

        Args:
            output: of the proposals [B, N].
            proposals: the RoIs.
            images: for their true sizes.
            score: the lowest score wanted; None for the option's value.
            capacity: candidates that are kept for NMS; an image with more raises its `overflow` flag.
        """
        options = self.options
        scores = output.logits.softmax(-1)[..., : self.classes]  # [B, N, K]
        wanted = proposals.valid[..., None] & (scores >= (options.score if score is None else score))
        candidates = torch.where(wanted, scores, 0.0).flatten(1)  # [B, N·K]
        best, index = candidates.topk(min(capacity, candidates.shape[1]), dim=1)  # [B, M]
        roi, label = index // self.classes, index % self.classes
        deltas = output.deltas.flatten(1, 2)  # [B, N·K or N, 4]
        delta = targets.take(deltas, index if options.regression == "per-class" else roi)
        boxes = self.coder.decode(delta, targets.take(proposals.boxes, roi))
        boxes = box_ops.clip(boxes, images.sizes)  # [B, M, 4]
        sides = (boxes[..., 2:] - boxes[..., :2]).amin(-1)
        valid = (best > 0) & (sides >= options.min_size)
        kept, count = kernels.nms(
            boxes, best, valid, label, threshold=options.nms, capacity=min(options.detections, best.shape[1])
        )
        real = torch.arange(kept.shape[1], device=kept.device) < count[:, None]  # [B, D]
        return DetectionBatch(
            boxes=targets.take(boxes, kept) * real[..., None],
            scores=best.gather(1, kept) * real,
            labels=torch.where(real, label.gather(1, kept), -1),
            overflow=(candidates > 0).sum(1) > best.shape[1],
        )
