"""What goes wrong, as one sentence: it names the thing, what was expected and the nearest right thing.

The command line prints the sentence and exits with the class's code; `--debug` adds the traceback. Library code
raises these and nothing else for bad input, so that a program can catch `RCNNError` alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RCNNError(Exception):
    """A failure that is told to the user in one sentence. Exit code 1."""

    exit_code = 1


class UserError(RCNNError):
    """Something that the user got wrong: a path, class, key, file or box. Exit code 2."""

    exit_code = 2


def nearest(word: str, known: Iterable[str], *, listed: int = 12) -> str:
    """Ends an error sentence with the nearest known word, else with what is known.

    Returns "; did you mean 'x'?" where some known word is close, else "; known are a, b, c" (at most `listed`).
    """
    names = [str(name) for name in known]
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{folded[close[0]]}'?"
    if not names:
        return "; none are known"
    more = f" and {len(names) - listed} more" if len(names) > listed else ""
    return f"; known are {', '.join(names[:listed])}{more}"
