"""What a run says while it works: a bar on a terminal, plain lines elsewhere, and with `quiet` only the evaluations."""

from __future__ import annotations

import sys
import time
from typing import Any

# Seconds between plain lines: the log of a long run stays readable.
PLAIN_EVERY = 15.0


class Reporter:
    """Talks on standard error.

    Args:
        quiet: only evaluations, as plain lines.
        silent: nothing at all: for a process that is not the first of its world, or a program that asked for silence.
    """

    def __init__(self, *, quiet: bool = False, silent: bool = False) -> None:
        self.quiet, self.silent = quiet, silent
        self.bar: Any = None
        self.task: Any = None
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        """A line of the talk, dropped by `quiet`."""
        if not self.quiet:
            self.result(text)

    def result(self, text: str) -> None:
        """A line that `quiet` keeps: an evaluation, an end."""
        if self.silent:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, stage: str, total: int | None, done: int) -> None:
        """Begins the progress of a stage of `total` steps, None if nobody knows yet, `done` of which are behind."""
        self.stop()
        if self.quiet or self.silent or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(stage, total=total, completed=done, figures="")
        self.bar.start()

    def step(self, stage: str, done: int, total: int, loss: float, rate: float, left: float) -> None:
        """Shows `done` of `total` steps, the present loss, images a second and the seconds left."""
        figures = f"loss {loss:.4f} · {rate:.1f} images/s · {duration(left)} left"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, figures=figures)
        elif time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            self.say(f"{stage} {done}/{total} · {figures}")

    def work(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` pieces of a stage without steps are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)
        elif done < total and time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            self.say(f"{stage} {done}/{total}")

    def stop(self) -> None:
        """Ends the progress of a stage."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def duration(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
