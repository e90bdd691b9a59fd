"""What every second stage shares: it draws RoIs to train on, knows its loss, and makes detections of what it says.

How logits and deltas come about is the subclass's: fully connected layers on pooled features (`heads.box`), or votes of
position-sensitive maps (`heads.position_sensitive`). Girshick 2015, sections 2.1–2.3; online hard example mining:
Shrivastava et al. 2016.

Letters: B images, N RoIs an image, S sampled RoIs, G ground truths, K classes (background is the last logit, index K),
D detections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn import boxes as box_ops
from rcnn import kernels, targets
from rcnn.boxes import BoxCoder
from rcnn.structures import DetectionBatch, GroundTruth, ImageBatch, Proposals
from rcnn.targets import ohem


@dataclass(frozen=True)
class RoIHeadOptions:
    """Settings of a second stage; the defaults are the modern recipe's.

    Attributes:
        regression: "per-class" deltas (4K), "class-agnostic" (4), or "none".
        init_std: standard deviations of the new classification and regression layers.
        positive: IoU from which an RoI is an object.
        negative: IoU interval [low, high) in which an RoI is background.
        samples: RoIs an image in the loss.
        positive_fraction: the most of them that may be positive.
        append_truth: ground-truth boxes join the proposals in training.
        ohem: which RoIs are sampled: None draws at random. Online hard example mining looks at all and learns from
            those of the highest loss, in one of its published forms: "shrivastava" (NMS by loss within an image and
            class, then the best of the whole batch), "rfcn" (the best of each image, whatever they are), "fraction"
            (by the loss of the class alone, positives up to `positive_fraction`). The lower end of `negative` is 0
            then.
        ohem_nms: IoU above which "shrivastava" takes two RoIs for one.
        target_gradient: where proposals move with their losses, whether that goes through the regression targets, too.
        loss_beta: where the smooth L1 loss turns from square to linear, in units of the deltas.
        box_weight: λ of the multi-task loss.
        coder_weights: box coding weights; (10, 10, 5, 5) are the classic standard deviations (0.1, 0.1, 0.2, 0.2).
        score: detections below are dropped inside the network.
        nms: IoU above which the lesser detection of the same class is dropped.
        nms_shift: whether NMS keeps classes apart as torchvision does, which rounds boxes; see `boxes.shifted`.
        detections: the most detections of an image.
        min_size: detections with a shorter side, in pixels of the input, are dropped.
        inclusive: whether a region's right and bottom are its last pixels, as in the classic code (py-faster-rcnn,
            R-FCN): it is coded, and its overlaps are measured, by sides of x2 − x1 + 1, and the image ends at W − 1.
            What is decoded is left as it comes out, as there. The truth stays continuous.
    """

    regression: Literal["per-class", "class-agnostic", "none"] = "per-class"
    init_std: tuple[float, float] = (0.01, 0.001)
    positive: float = 0.5
    negative: tuple[float, float] = (0.0, 0.5)
    samples: int = 512
    positive_fraction: float = 0.25
    append_truth: bool = True
    ohem: Literal["shrivastava", "rfcn", "fraction"] | None = None
    ohem_nms: float = 0.7
    target_gradient: bool = False
    loss_beta: float = 1.0 / 9
    box_weight: float = 1.0
    coder_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score: float = 0.05
    nms: float = 0.5
    nms_shift: bool = False
    detections: int = 100
    min_size: float = 0.01
    inclusive: bool = False

    @property
    def edge(self) -> float:
        """The pixels by which a region's right and bottom lie beyond what it says."""
        return 1.0 if self.inclusive else 0.0


@dataclass
class RoISamples:
    """The RoIs of a training step and what they should become.

    Attributes:
        boxes: [B, S, 4] pixels.
        used: [B, S] bool.
        positive: [B, S] bool.
        labels: [B, S] int64, class or K for background.
        goals: [B, S, 4] regression targets, zeros where not positive.
        matched: [B, S] int64, the object that each overlaps most; meaningful where positive.
    """

    boxes: Tensor
    used: Tensor
    positive: Tensor
    labels: Tensor
    goals: Tensor
    matched: Tensor


@dataclass
class BoxOutput:
    """What the head says of RoIs: `logits` [B, N, K+1] and `deltas` [B, N, K or 1, 4], float32."""

    logits: Tensor
    deltas: Tensor


# Boxes [B, N, 4] and whether each is real [B, N] → what the head says of them, read from maps made before.
Look = Callable[[Tensor, Tensor], BoxOutput]


class RoIHead(nn.Module):
    """Class scores and better boxes of RoIs: the losses and the detections made of them.

    Args:
        classes: K.
        options: see `RoIHeadOptions`.
    """

    def __init__(self, classes: int, options: RoIHeadOptions) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        self.coder = BoxCoder(options.coder_weights)

    def learn(
        self, look: Look, proposals: Proposals, truth: GroundTruth, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The losses, as of `losses`, on RoIs that are drawn from the proposals [B, N] or found hard among them.

        `look` says what the head makes of boxes. Hard examples cost a look at every RoI, without gradient; only the
        chosen are looked at again for the backward pass (Shrivastava et al. 2016, section 4.2).
        """
        samples = self.choose(look, proposals, truth, generator)
        return self.losses(look(samples.boxes, samples.used), samples)

    def choose(
        self, look: Look, proposals: Proposals, truth: GroundTruth, generator: torch.Generator | None = None
    ) -> RoISamples:
        """The RoIs to train on, as of `learn`."""
        samples = self.draw(proposals, truth, generator)
        if self.options.ohem is None:
            return samples
        with torch.no_grad():
            output = look(samples.boxes, samples.used)
        return self.mine(output, samples)

    def draw(self, proposals: Proposals, truth: GroundTruth, generator: torch.Generator | None = None) -> RoISamples:
        """Chooses the RoIs to train on (Girshick 2015, section 2.3; ground truth appended as in Ren et al. 2015).

        Where hard examples are mined, all that are object or background, for `mine` to choose from. RoIs carry the
        gradient that their proposals have; which ones they are has none.
        """
        options = self.options
        boxes, eligible, negative = proposals.boxes, proposals.valid, options.negative
        if options.append_truth:
            boxes = torch.cat((boxes, box_ops.grown(truth.boxes, -options.edge)), 1)  # [B, N+G, 4]
            eligible = torch.cat((eligible, truth.real), 1)
        count, fraction = options.samples, options.positive_fraction
        if options.ohem is not None:
            count, fraction, negative = boxes.shape[1], 1.0, (0.0, options.negative[1])
        assignment = targets.assign(
            box_ops.grown(boxes, options.edge),
            eligible,
            truth,
            positive=options.positive,
            negative=negative,
            best_of_each=False,
        )
        drawn = targets.sample(assignment, count, fraction, generator)
        matched = assignment.index.gather(1, drawn.index)
        rois = targets.take(boxes, drawn.index) * drawn.used[..., None]
        labels = torch.where(drawn.positive, truth.labels.gather(1, matched), self.classes)
        references = box_ops.grown(rois if options.target_gradient else rois.detach(), options.edge)
        goals = targets.encode(references, matched, drawn.positive, truth, self.coder)
        return RoISamples(rois, drawn.used, drawn.positive, labels, goals, matched)

    def mine(self, output: BoxOutput, samples: RoISamples) -> RoISamples:
        """The RoIs of the highest loss among `samples` [B, A], of which `output` is, by the form of `options.ohem`."""
        options = self.options
        cls, box = (each.detach() for each in self._each(output, samples))  # [B, A]
        both = cls + box
        positive, used = samples.positive, samples.used
        if options.ohem == "shrivastava":
            chosen = ohem.hardest_apart(
                both, samples.boxes, samples.labels, positive, used, options.samples, options.ohem_nms
            )
        elif options.ohem == "rfcn":
            chosen = ohem.hardest(both, positive, used, options.samples)
        else:
            chosen = ohem.hardest_by_fraction(cls, positive, used, options.samples, options.positive_fraction)
        kept = samples.boxes, samples.labels, samples.goals, samples.matched
        boxes, labels, goals, matched = (targets.take(values, chosen.index) for values in kept)
        return RoISamples(boxes * chosen.used[..., None], chosen.used, chosen.positive, labels, goals, matched)

    def losses(self, output: BoxOutput, samples: RoISamples) -> dict[str, Tensor]:
        """The multi-task loss (Girshick 2015, equation 1): `loss_cls`, `loss_box`, and the count `foreground_rois`.

        Deltas are [B, S, K or 1, 4]. Without regression `loss_box` is 0.
        Both are divided by the number of sampled RoIs: a positive RoI weighs the same however many there are. R-FCN's
        mining divides `loss_box` by the number wanted instead, as its code does.
        """
        used = samples.used.sum().clamp(min=1)
        cls, box = self._each(output, samples)
        wanted = self.options.samples * len(samples.used) if self.options.ohem == "rfcn" else used
        return {
            "loss_cls": (cls * samples.used).sum() / used,
            "loss_box": (box * samples.used).sum() / wanted,
            "foreground_rois": samples.positive.sum() / samples.positive.shape[0],
        }

    def _each(self, output: BoxOutput, samples: RoISamples) -> tuple[Tensor, Tensor]:
        """The two losses of each RoI, both [B, S]; that of the box, weighted, is 0 where there is no object."""
        options = self.options
        cls = F.cross_entropy(output.logits.flatten(0, 1), samples.labels.flatten(), reduction="none")  # [B·S]
        if options.regression == "per-class":
            slot = samples.labels.clamp(max=self.classes - 1)
            deltas = output.deltas.gather(2, slot[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # [B, S, 4]
        else:
            deltas = output.deltas.squeeze(2)
        box = F.smooth_l1_loss(deltas, samples.goals, beta=options.loss_beta, reduction="none").sum(-1)
        weight = options.box_weight if options.regression != "none" else 0.0
        return cls.view_as(box), weight * box * samples.positive

    def decode(self, deltas: Tensor, regions: Tensor) -> Tensor:
        """Boxes [..., 4] that `deltas` [..., 4] make of `regions` [..., 4]."""
        return self.coder.decode(deltas, box_ops.grown(regions, self.options.edge))

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
        boxes = self.decode(delta, targets.take(proposals.boxes, roi))
        boxes = box_ops.clip(boxes, images.sizes - options.edge)  # [B, M, 4]
        measured = box_ops.grown(boxes, options.edge)
        sides = (measured[..., 2:] - measured[..., :2]).amin(-1)
        valid = (best > 0) & (sides >= options.min_size)
        apart = box_ops.shifted(measured, label + 1, valid) if options.nms_shift else measured
        kept, count = kernels.nms(
            apart, best, valid, label, threshold=options.nms, capacity=min(options.detections, best.shape[1])
        )
        real = torch.arange(kept.shape[1], device=kept.device) < count[:, None]  # [B, D]
        return DetectionBatch(
            boxes=targets.take(boxes, kept) * real[..., None],
            scores=best.gather(1, kept) * real,
            labels=torch.where(real, label.gather(1, kept), -1),
            overflow=(candidates > 0).sum(1) > best.shape[1],
        )
