"""Evaluation of detectors and proposals; every figure comes with the protocol by which it was found.

What runs a model is loaded when first used, so that judging stored predictions needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rcnn.evaluation.columns import NO_CLASS, Columns, Prediction, check_classes, flatten, meant
from rcnn.evaluation.curves import Curves, find_curves
from rcnn.evaluation.outcomes import Outcome, judge, rank_images
from rcnn.evaluation.proposals import ProposalResult, proposal_recall
from rcnn.evaluation.protocols import Result, evaluate
from rcnn.evaluation.segmentation import SegmentationResult, confusion_of, total_of

if TYPE_CHECKING:
    from rcnn.evaluation.detecting import detect_in, evaluate_model, open_for, segment_in

__all__ = [
    "NO_CLASS",
    "Columns",
    "Curves",
    "Outcome",
    "Prediction",
    "ProposalResult",
    "Result",
    "SegmentationResult",
    "check_classes",
    "confusion_of",
    "detect_in",
    "evaluate",
    "evaluate_model",
    "find_curves",
    "flatten",
    "judge",
    "meant",
    "open_for",
    "proposal_recall",
    "rank_images",
    "segment_in",
    "total_of",
]


def __getattr__(name: str) -> Any:
    """Loads the functions that need a detector."""
    if name not in ("detect_in", "evaluate_model", "open_for", "segment_in"):
        raise AttributeError(f"module 'rcnn.evaluation' has no attribute '{name}'")
    return getattr(import_module("rcnn.evaluation.detecting"), name)
