"""Reports that a person reads in a browser: one file, nothing loaded from elsewhere."""

from __future__ import annotations

from rcnn.report.finished import report_run
from rcnn.report.run_report import Sample, write_run_report
from rcnn.report.score_maps import Votes, draw_votes, votes

__all__ = ["Sample", "Votes", "draw_votes", "report_run", "votes", "write_run_report"]
