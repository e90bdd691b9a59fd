"""How well class-agnostic proposals cover the objects: recall and mean average best overlap by number of proposals.

Uijlings et al. 2013, section 5.1: ABO is the mean over a class's objects of the best IoU that any proposal of their
image has with them, MABO its mean over classes. Letters: C counts of proposals, T thresholds, K classes, G objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnn.evaluation.overlaps import iou

if TYPE_CHECKING:
    from rcnn.data.dataset import Truth


@dataclass(frozen=True)
class ProposalResult:
    """Coverage of the objects by the best `counts` proposals of each image; fractions, NaN without objects.

    Attributes:
        counts: [C] how many proposals were looked at.
        thresholds: [T] IoU at which an object counts as found.
        recall: [C, T] share of the objects that are found.
        mabo: [C] mean over classes of the average best overlap.
        average: [C] mean number of proposals an image really had.
    """

    counts: np.ndarray
    thresholds: np.ndarray
    recall: np.ndarray
    mabo: np.ndarray
    average: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `counts`, `average`, `mabo`, and `recall` by threshold; None where not known."""

        def plain(values: np.ndarray) -> list[float | None]:
            return [None if np.isnan(value) else round(value, 5) for value in values.tolist()]

        recall = {f"{t:g}": plain(column) for t, column in zip(self.thresholds, self.recall.T, strict=True)}
        average = [round(value, 2) for value in self.average.tolist()]
        return {"counts": self.counts.tolist(), "average": average, "mabo": plain(self.mabo), "recall": recall}


def proposal_recall(
    truths: Sequence[Truth],
    proposals: Sequence[np.ndarray],
    counts: Sequence[int] = (10, 50, 100, 300, 1000, 2000),
    thresholds: Sequence[float] = (0.5, 0.7, 0.9),
) -> ProposalResult:
    """Coverage of the objects, difficult and crowd ones aside, by each image's proposals [N, 4], best first."""
    best, labels = [np.zeros((0, len(counts)))], [np.zeros(0, np.int64)]
    for truth, boxes in zip(truths, proposals, strict=True):
        real = ~truth.ignore
        overlap = iou(
            np.asarray(truth.boxes, np.float64)[real][:, None], np.asarray(boxes, np.float64).reshape(1, -1, 4)
        )  # [G, N]
        reached = np.maximum.accumulate(np.pad(overlap, ((0, 0), (1, 0))), 1)  # [G, 1 + N], 0 without proposals
        best.append(reached[:, np.minimum(counts, overlap.shape[1])])  # [G, C]
        labels.append(np.asarray(truth.labels)[real])
    covered, label = np.concatenate(best), np.concatenate(labels)
    there = len(label) > 0
    abo = [covered[label == k].mean(0) for k in np.unique(label)]
    lengths = np.array([len(boxes) for boxes in proposals])
    return ProposalResult(
        counts=np.asarray(counts),
        thresholds=np.asarray(thresholds),
        recall=(covered[:, :, None] >= np.asarray(thresholds)).mean(0)
        if there
        else np.full((len(counts), len(thresholds)), np.nan),
        mabo=np.mean(abo, 0) if there else np.full(len(counts), np.nan),
        average=np.minimum(lengths[:, None], counts).mean(0),
    )
