"""The region proposal network (Ren et al. 2015, section 3): a small head on shared maps scores and moves anchors.

Letters: B images, L feature maps, A anchors of all maps, k anchors a place, N proposals, S sampled anchors, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnn import boxes as box_ops
from rcnn import kernels, targets
from rcnn.backbones.conv import Conv2d
from rcnn.boxes import BoxCoder
from rcnn.errors import UserError
from rcnn.proposals.anchors import Anchors, inside
from rcnn.structures import GroundTruth, ImageBatch, Proposals


@dataclass(frozen=True)
class RPNOptions:
    """Settings of the region proposal network; the defaults are the modern recipe's (Lin et al. 2017, FPN).

    Attributes:
        convs: how many 3×3 convolutions come first.
        channels: width of the 3×3 convolutions; 0 means that of the feature maps, at most 512 (the paper's 256 for ZF,
            512 for VGG16).
        objectness: "sigmoid" gives each anchor one logit; "softmax" gives it two (object, not object).
        init_std: standard deviation of the new layers' normal start.
        regression: whether anchors are moved; without it the anchors themselves are proposed.
        positive: IoU from which an anchor is an object.
        negative: IoU below which an anchor is background.
        border: anchors that cross the image's edge by more than so many pixels do not train; None lets all train.
        samples: anchors an image in the loss.
        positive_fraction: the most of them that may be positive.
        loss_beta: where the smooth L1 loss turns from square to linear, in units of the deltas.
        box_weight: λ of equation 1.
        box_normaliser: the loss of the deltas is a sum divided by "samples" or by the number of "positions" (N_reg of
            equation 1).
        nms: IoU above which the lesser proposal is dropped; None leaves NMS out.
        nms_shift: whether NMS keeps maps apart as torchvision does, which rounds boxes; see `boxes.shifted`.
        nms_training: whether training proposals go through NMS too.
        pre_nms: proposals kept of each map before NMS, in training and at test.
        post_nms: proposals kept of each image in the end, in training and at test.
        min_size: proposals with a shorter side, in pixels of the input, are dropped.
        min_score: proposals with a lower probability are dropped.
        coder_weights: box coding weights of x, y, log width and log height.
        inclusive: whether a proposal's right and bottom are its last pixels, as in the classic code: its sides are
            x2 − x1 + 1 where sizes and overlaps are measured, and the image ends at W − 1.
    """

    convs: int = 1
    channels: int = 0
    objectness: Literal["sigmoid", "softmax"] = "sigmoid"
    init_std: float = 0.01
    regression: bool = True
    positive: float = 0.7
    negative: float = 0.3
    border: float | None = None
    samples: int = 256
    positive_fraction: float = 0.5
    loss_beta: float = 1.0 / 9
    box_weight: float = 1.0
    box_normaliser: Literal["samples", "positions"] = "samples"
    nms: float | None = 0.7
    nms_shift: bool = False
    nms_training: bool = True
    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] = (2000, 1000)
    min_size: float = 1e-3
    min_score: float = 0.0
    coder_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    inclusive: bool = False

    def __post_init__(self) -> None:
        if self.convs < 1:
            raise UserError(f"model.rpn.convs = {self.convs}: expected 1 or more")


class RPNHead(nn.Module):
    """A 3×3 convolution, or more, and two sibling 1×1 convolutions, shared by all maps.

    Args:
        channels: C of the feature maps.
        per_place: k.
        options: of these `convs`, `channels`, `objectness` and `init_std`.
    """

    def __init__(self, channels: int, per_place: int, options: RPNOptions) -> None:
        super().__init__()
        self.softmax = options.objectness == "softmax"
        width = options.channels or min(channels, 512)
        self.conv = Conv2d(channels, width, 3, padding=1)
        deeper = [Conv2d(width, width, 3, padding=1) for _ in range(options.convs - 1)]
        self.deeper = nn.ModuleList(deeper)
        self.cls_logits = nn.Conv2d(width, per_place * (2 if self.softmax else 1), 1)
        self.bbox_pred = nn.Conv2d(width, per_place * 4, 1)
        for layer in (self.conv, *deeper, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=options.init_std)
            nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps [B, C, H, W] → for each, objectness logits [B, H·W·k] and deltas [B, H·W·k, 4] in float32."""
        logits, deltas = [], []
        for feature in features:
            hidden = F.relu(self.conv(feature), inplace=True)
            for conv in self.deeper:
                hidden = F.relu(conv(hidden), inplace=True)
            score, delta = self._answers(hidden.permute(0, 2, 3, 1))
            logits.append(score.flatten(1))  # [B, H·W·k]
            deltas.append(delta.reshape(len(delta), -1, 4))  # [B, H·W·k, 4]
        return logits, deltas

    def at(self, features: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, S] and deltas [B, S, 4] of the anchors `index` [B, S] alone, counted as `forward` lays them out.

        What they see is cut out of the maps [B, C, H, W], zeros beyond the edge as there.
        """
        per_place = self.bbox_pred.out_channels // 4  # k
        convs = (self.conv, *self.deeper)
        hidden, inside = windows(features, index // per_place, reach=len(convs))
        for conv in convs:
            hidden = torch.where(inside, hidden, 0.0)
            hidden = F.relu(F.conv2d(hidden, conv.weight, conv.bias), inplace=True)  # type: ignore[no-matching-overload]
            inside = inside[..., 1:-1, 1:-1]
        score, delta = self._answers(hidden.flatten(1))  # [B·S, k] and [B·S, k, 4]
        anchor = (index % per_place).view(-1, 1)
        return score.gather(1, anchor).view(index.shape), targets.take(delta, anchor).view(*index.shape, 4)

    def _answers(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, …, k] and deltas [B, …, k, 4] in float32 at places where the last 3×3 convolution has [B, …, C].

        As linear layers: a CPU's convolutions are slow where there are so few outputs.
        """
        hidden = box_ops.precise(hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # bf16 logits of 8 bits would tie, and boxes jump
            score, delta = (
                F.linear(hidden, layer.weight.flatten(1), layer.bias) for layer in (self.cls_logits, self.bbox_pred)
            )
        if self.softmax:
            # The softmax of two logits is the sigmoid of their difference; all "not object" channels come first, as in
            # the authors' code.
            background, foreground = score.chunk(2, dim=-1)
            score = foreground - background
        return score, delta.unflatten(-1, (-1, 4))


def windows(features: Sequence[Tensor], cells: Tensor, *, reach: int) -> tuple[Tensor, Tensor]:
    """What lies about some cells of L maps [B, C, H, W], with w = 2·reach + 1 cells a side.

    Args:
        features: the maps.
        cells: [B, S] int64, counted row by row through all maps of an image.
        reach: cells to each side.

    Returns:
        [B·S, C, w, w] of the maps, and [B·S, 1, w, w] which of it lies inside its map; the rest is arbitrary.
    """
    maps = torch.cat([feature.permute(0, 2, 3, 1).flatten(1, 2) for feature in features], 1)  # [B, P, C]
    first = height = width = torch.zeros_like(cells)  # [B, S], of the map that each cell is in
    start = 0
    for _, _, rows, columns in (feature.shape for feature in features):
        here = cells >= start
        first, height = torch.where(here, start, first), torch.where(here, rows, height)
        width = torch.where(here, columns, width)
        start += rows * columns
    row, column = (cells - first) // width, (cells - first) % width
    step = torch.arange(-reach, reach + 1, device=cells.device)
    y, x = row[..., None, None] + step[:, None], column[..., None, None] + step  # [B, S, w, 1] and [B, S, 1, w]
    height, width, first = (each[..., None, None] for each in (height, width, first))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)  # [B, S, w, w]
    image = torch.arange(len(cells), device=cells.device).view(-1, 1, 1, 1) * maps.shape[1]
    place = torch.where(inside, image + first + y * width + x, 0)
    seen = F.embedding(place.flatten(0, 1), maps.flatten(0, 1))  # [B·S, w, w, C], its backward in a fixed order
    return seen.permute(0, 3, 1, 2), inside.flatten(0, 1)[:, None]


@dataclass
class RPNOutput:
    """What the head says of every anchor.

    Attributes:
        logits: L tensors [B, A_l].
        deltas: L tensors [B, A_l, 4].
        anchors: L tensors [A_l, 4].
        eligible: [B, A] bool, false in the padding.
        positions: number of places of all maps that are inside the images, of the whole batch (a scalar tensor).
        features: the L maps [B, C, H, W] that the head read, where logits and deltas have no gradient and `RPN.losses`
            is to read the anchors that it samples once more.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]
    eligible: Tensor
    positions: Tensor
    features: Sequence[Tensor] | None = None


class RPN(nn.Module):
    """Scores and moves anchors, proposes the best, and knows its own loss.

    Args:
        channels: C of the feature maps, the same for all.
        anchors: the anchor layout; its strides are those of the maps.
        options: see `RPNOptions`.
    """

    def __init__(self, channels: int, anchors: Anchors, options: RPNOptions) -> None:
        super().__init__()
        self.options = options
        self.anchors = anchors
        self.coder = BoxCoder(options.coder_weights)
        self.head = RPNHead(channels, anchors.per_place, options)

    def forward(self, features: Sequence[Tensor], images: ImageBatch, *, sampled: bool = False) -> RPNOutput:
        """Runs the head over maps [B, C, H, W] of the images [B, 3, …]; maps beyond the anchors' are left unread.

        With `sampled` only the anchors that `losses` samples get a gradient, by being read once more: the same as from
        whole maps, whose gradient is zero but at 256 of 200,000 anchors, at a fraction of the time and memory. Where
        maps are so small that this would save nothing, they are read once.
        """
        features = features[: len(self.anchors.strides)]
        shapes = [(feature.shape[2], feature.shape[3]) for feature in features]
        sampled = sampled and 4 * self.options.samples < sum(rows * columns for rows, columns in shapes)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not sampled):
            logits, deltas = self.head(features)
        if not self.options.regression:
            deltas = [delta * 0.0 for delta in deltas]
        eligible = self.anchors.eligible(shapes, images.sizes)
        positions = eligible.sum() / self.anchors.per_place
        again = features if sampled else None
        return RPNOutput(logits, deltas, self.anchors(shapes), eligible, positions, again)

    def advice(self, sizes: Tensor) -> list[str]:
        """What to say of training on images of `sizes` [N, 2]: that in some no anchor may train.

        Raises:
            UserError: that is so in all of them, and the network would learn nothing.
        """
        if self.options.border is None:
            return []
        lost = ~self.anchors.fit(sizes, self.options.border)
        count, remedy = int(lost.sum()), "a larger --image-size, smaller model.anchors.sizes, or model.rpn.border=none"
        if count == 0:
            return []
        if count < len(sizes):
            return [
                f"note: in {count} of {len(sizes)} training images no anchor lies inside, so nothing trains the region"
                f" proposals there; {remedy} would change that"
            ]
        sides = (self.anchors.cells[..., 2:] - self.anchors.cells[..., :2]).flatten(0, 1)  # [L·k, 2]
        width, height = sides[sides.prod(1).argmin()].tolist()
        rows, columns = sizes[0].tolist()
        raise UserError(
            f"no anchor lies inside any training image, so the region proposals would never train: the smallest is"
            f" {width:g}×{height:g} pixels, the first image in the network {columns:g}×{rows:g}; expected {remedy}"
        )

    def propose(self, output: RPNOutput, images: ImageBatch, *, training: bool, gradient: float = 0.0) -> Proposals:
        """The best boxes of each image: top-k of each map → decode → clip → drop → NMS → top-k.

        Returns `Proposals` [B, post_nms], fewer if there are fewer anchors. `training` picks the numbers, not a mode.
        The boxes carry the deltas' gradient, weighted by `gradient` (Ren et al. 2017, section 3.2, item iii); which
        boxes they are has none.
        """
        options = self.options
        pre_nms, post_nms = (pair[0 if training else 1] for pair in (options.pre_nms, options.post_nms))
        boxes, scores, levels = [], [], []
        counts = [anchors.shape[0] for anchors in output.anchors]
        for level, eligible in enumerate(output.eligible.split(counts, 1)):
            logits = torch.where(eligible, output.logits[level].detach(), -torch.inf)
            score, index = logits.topk(min(pre_nms, logits.shape[1]), dim=1)  # [B, N_l]
            delta = targets.take(output.deltas[level].detach(), index)
            if gradient:
                moving = targets.take(output.deltas[level], index)
                delta = delta + gradient * (moving - delta)  # the same numbers
            boxes.append(self.coder.decode(delta, output.anchors[level][index]))  # [B, N_l, 4]
            scores.append(score)
            levels.append(torch.full_like(index, level))
        edge = 1.0 if options.inclusive else 0.0
        box = box_ops.clip(torch.cat(boxes, 1), images.sizes - edge)  # [B, N, 4]
        logit = torch.cat(scores, 1)  # [B, N]; −inf where an anchor lies in the padding
        measured = box_ops.grown(box, edge)
        sides = (measured[..., 2:] - measured[..., :2]).amin(-1)
        valid = (logit > -torch.inf) & (sides >= options.min_size) & (logit.sigmoid() >= options.min_score)
        threshold = options.nms if options.nms is not None and (options.nms_training or not training) else 1.0
        # Ranked by logit: probabilities close to 1 are equal in float32 where logits still differ.
        origin = torch.cat(levels, 1)  # [B, N] which map
        apart = box_ops.shifted(measured, origin, valid) if options.nms_shift else measured
        index, count = kernels.nms(
            apart, logit, valid, origin, threshold=threshold, capacity=min(post_nms, logit.shape[1])
        )
        kept = torch.arange(index.shape[1], device=index.device) < count[:, None]  # [B, N]
        score = torch.where(kept, targets.take(logit, index).sigmoid(), 0.0)
        return Proposals(targets.take(box, index) * kept[..., None], score, kept)

    def losses(
        self, output: RPNOutput, images: ImageBatch, truth: GroundTruth, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Equation 1 over sampled anchors [B, S]: `loss_rpn_cls` and `loss_rpn_box`, means over the B images."""
        options = self.options
        anchors = torch.cat(output.anchors)  # [A, 4]
        eligible = output.eligible
        if options.border is not None:
            eligible = eligible & inside(anchors, images.sizes, options.border)
        assignment = targets.assign(
            anchors[None],
            eligible,
            truth,
            positive=options.positive,
            negative=(0.0, options.negative),
            best_of_each=True,
        )
        drawn = targets.sample(assignment, options.samples, options.positive_fraction, generator)
        if output.features is None:
            logits = torch.cat(output.logits, 1).gather(1, drawn.index)  # [B, S]
            deltas = targets.take(torch.cat(output.deltas, 1), drawn.index)  # [B, S, 4]
        else:
            logits, deltas = self.head.at(output.features, drawn.index)
        matched = assignment.index.gather(1, drawn.index)
        goals = targets.encode(anchors[drawn.index], matched, drawn.positive, truth, self.coder)

        cls = F.binary_cross_entropy_with_logits(logits, drawn.positive.float(), reduction="none")
        box = F.smooth_l1_loss(deltas, goals, beta=options.loss_beta, reduction="none").sum(-1)
        used = drawn.used.sum().clamp(min=1)
        normaliser = used if options.box_normaliser == "samples" else output.positions.clamp(min=1)
        weight = options.box_weight if options.regression else 0.0
        return {
            "loss_rpn_cls": (cls * drawn.used).sum() / used,
            "loss_rpn_box": weight * (box * drawn.positive).sum() / normaliser,
        }
