"""From ground truth to training targets in three steps that read like the papers: assign → sample → encode."""

from rcnn.targets.assign import Assignment, assign
from rcnn.targets.encode import encode
from rcnn.targets.masks import cut, cut_aligned
from rcnn.targets.sample import Samples, sample, take

__all__ = ["Assignment", "Samples", "assign", "cut", "cut_aligned", "encode", "sample", "take"]
