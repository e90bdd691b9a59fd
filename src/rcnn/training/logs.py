"""The two logs of a run: `metrics.csv`, a row an evaluation, and `log.jsonl`, a line an event.

A saved state remembers how long both files were, so that a resumed run cuts off what was written after it and the logs
read as if nothing had happened.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.files import telling

METRICS, EVENTS = "metrics.csv", "log.jsonl"


class RunLog:
    """Appends to the logs in `folder`.

    Args:
        lengths: bytes of each file that count, as of `lengths()`; longer files are cut. None starts both afresh.
    """

    def __init__(self, folder: Path, lengths: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        for name in (METRICS, EVENTS):
            with telling(folder / name):
                (folder / name).touch()
                with open(folder / name, "r+b") as file:
                    file.truncate((lengths or {}).get(name, 0))

    def lengths(self) -> dict[str, int]:
        """The bytes in each file now."""
        return {name: (self.folder / name).stat().st_size for name in (METRICS, EVENTS)}

    def event(self, kind: str, **values: Any) -> None:
        """Appends one line to `log.jsonl`: the kind of event and its values; what is not finite becomes null."""
        plain = {key: _finite(value) for key, value in values.items()}
        self._append(EVENTS, json.dumps({"event": kind, **plain}, ensure_ascii=False, allow_nan=False) + "\n")

    def row(self, values: Mapping[str, Any]) -> None:
        """Appends one row to `metrics.csv`; the first row decides the columns."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = _columns(self.folder / METRICS)
        if not columns:
            columns = list(values)
            writer.writerow(columns)
        writer.writerow([values.get(column, "") for column in columns])
        self._append(METRICS, text.getvalue())

    def _append(self, name: str, text: str) -> None:
        with telling(self.folder / name), open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(text)


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


def _columns(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
