"""What each step of the set-up does alike: it tells what happens, runs a command, and fails in one sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class SetupError(Exception):
    """What stops the set-up, in a sentence that ends with what to do."""


def run(command: list, failure: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs a command in the repository root; its own words stand above ours where it fails."""
    code = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, check=False).returncode
    if code:
        raise SetupError(f"{failure}: '{' '.join(str(word) for word in command[1:5])} …' ended with code {code}")


def say(text: str) -> None:
    """Tells what happens now."""
    print(f"set-up: {text}", flush=True)
