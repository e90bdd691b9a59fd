"""Ctrl-C and SIGTERM during training: the step under way ends, the state is saved, and then the run stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop, and its state is saved."""


class Interrupt:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block the first signal is noted; a second one ends the process as it would without the block.

        Outside the main thread, where Python allows no handlers, nothing is watched.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in signals}

        def note(number: int, frame: FrameType | None) -> None:
            self.requested = True
            signal.signal(number, before[signal.Signals(number)])

        for number in signals:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
