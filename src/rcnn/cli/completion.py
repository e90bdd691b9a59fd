"""Words that the shell completes: `rcnn --install-completion` sets it up, and the shell then asks by a variable.

Typer does both, for an application that holds every command; the frame builds one only here, so that no call of a
command pays for the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import typer


def answer(words: list[str], commands: Iterable[str]) -> int:
    """Installs or shows the shell's script, or gives the completions that the shell asks for; returns the exit code."""
    application = typer.Typer(add_completion=True, rich_markup_mode=None)
    for name in commands:
        module = importlib.import_module(f"rcnn.cli.{name}")
        if hasattr(module, "app"):
            application.add_typer(module.app, name=name)
        else:
            application.command(name)(module.command)
    try:
        typer.main.get_command(application).main(args=words, prog_name="rcnn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
