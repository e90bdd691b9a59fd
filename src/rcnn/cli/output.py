"""Where a command's words go: results to standard output, talk about progress to standard error.

So `rcnn eval … --json - | jq` gets JSON and nothing else, and `--quiet` drops the talk but never a result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.files import require_place, write_text

if TYPE_CHECKING:
    from rich.console import Console

_is_quiet = False


def set_quiet(value: bool) -> None:
    """Whether talk about progress is dropped from now on; the frame calls this once."""
    global _is_quiet
    _is_quiet = value


def quiet() -> bool:
    """Whether the user asked for `--quiet`."""
    return _is_quiet


def say(text: str) -> None:
    """Tells what is happening, on standard error; dropped by `--quiet`."""
    if not _is_quiet:
        print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """A rich console for results (tables), on standard output, which `--quiet` leaves alone.

    Words are printed as they are: no markup, no highlighting, no emoji, so that a shape [N, 4] stays a shape.
    """
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def progress_console() -> Console:
    """A rich console for progress bars, on standard error, silent under `--quiet`."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False, quiet=_is_quiet)


def require_targets(*targets: str | Path) -> None:
    """Refuses, before any work, files that `write_json` could not write; "" and "-" are none.

    Raises:
        UserError: a folder is there, or it may not be written.
    """
    for target in targets:
        if str(target) not in ("", "-"):
            require_place(target)


def write_json(target: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON to the file `target`, whole or not at all; "-" is standard output.

    Raises:
        UserError, RCNNError: as of `files.writing`.
        ValueError: a figure is not finite, which JSON cannot say.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if str(target) == "-":
        print(text)
    else:
        write_text(target, text + "\n")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how far `what` has come: a bar on terminals, a line at each tenth elsewhere, nothing under `--quiet`.

    Gives a function to be called with the number of items that are done, of `total`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = progress_console()
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            if 10 * done // max(total, 1) > told:
                told = 10 * done // max(total, 1)
                say(f"{what}: {done} of {total}")

        yield tell
