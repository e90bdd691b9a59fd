"""Reports that a person reads in a browser: one file, nothing loaded from elsewhere."""

from __future__ import annotations

from rcnn.report.finished import report_run
from rcnn.report.run_report import Sample, write_run_report

__all__ = ["Sample", "report_run", "write_run_report"]
