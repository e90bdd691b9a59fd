"""Evaluation of detectors and proposals; every figure comes with the protocol by which it was found."""

from __future__ import annotations

from rcnn.evaluation.columns import Columns, Prediction, check_classes, flatten
from rcnn.evaluation.proposals import ProposalResult, proposal_recall
from rcnn.evaluation.protocols import Result, evaluate

__all__ = [
    "Columns",
    "Prediction",
    "ProposalResult",
    "Result",
    "check_classes",
    "evaluate",
    "flatten",
    "proposal_recall",
]
