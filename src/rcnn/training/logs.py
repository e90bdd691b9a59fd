"""The two logs of a run: `log.jsonl`, a line an event, and `metrics.csv`, a row an evaluation.

A saved state remembers how long the log was, so that a resumed run cuts off what was written after it and reads as if
nothing had happened. The table is made from the log's evaluations, with every column that any stage has.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.files import telling, write_text

METRICS, EVENTS = "metrics.csv", "log.jsonl"
EVALUATION = "evaluation"


class RunLog:
    """Appends to the logs in `folder`.

    Args:
        length: bytes of `log.jsonl` that count, as of `length()`; a longer file is cut. 0 starts afresh.
    """

    def __init__(self, folder: Path, length: int = 0) -> None:
        self.folder = folder
        with telling(folder / EVENTS):
            (folder / EVENTS).touch()
            with open(folder / EVENTS, "r+b") as file:
                file.truncate(length)
        self.rows = [_row(event) for event in read_events(folder) if event["event"] == EVALUATION]
        self._write_table()

    def length(self) -> int:
        """The bytes in `log.jsonl` now."""
        return (self.folder / EVENTS).stat().st_size

    def event(self, kind: str, **values: Any) -> None:
        """Appends one line to `log.jsonl`: the kind of event and its values; what is not finite becomes null."""
        plain = {key: _finite(value) for key, value in values.items()}
        line = json.dumps({"event": kind, **plain}, ensure_ascii=False, allow_nan=False) + "\n"
        with telling(self.folder / EVENTS), open(self.folder / EVENTS, "a", encoding="utf-8") as file:
            file.write(line)

    def evaluation(self, values: Mapping[str, Any]) -> None:
        """Logs the figures of an evaluation as an event and as a row of `metrics.csv`."""
        self.event(EVALUATION, **values)
        self.rows.append({key: _finite(value) for key, value in values.items()})
        self._write_table()

    def _write_table(self) -> None:
        """Writes `metrics.csv` whole; columns in the order in which they came up."""
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        if columns:
            writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        write_text(self.folder / METRICS, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.csv`, figures as numbers."""
    path = folder / METRICS
    if not path.exists():
        return []
    with telling(path), open(path, encoding="utf-8", newline="") as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`; a last one that was cut short is left out."""
    path = folder / EVENTS
    if not path.exists():
        return []
    with telling(path), open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _row(event: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an evaluation's event."""
    return {key: value for key, value in event.items() if key != "event"}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
