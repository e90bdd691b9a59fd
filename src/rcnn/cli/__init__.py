"""The command line's frame: finds the command, runs it, and turns whatever goes wrong into one sentence and a code.

How a command looks: a module `cli/<name>.py` that holds one function `command` with typer annotations, or a typer
application `app` where it has sub-commands; its help line stands in `COMMANDS` below. The module imports typer and
the standard library at its top and everything else inside the function, so that `--help` stays instant.

    def command(model: Annotated[Path, typer.Argument(help="Run or model folder.")]) -> None:
        \"\"\"First paragraph: what `rcnn eval --help` says.\"\"\"
        from rcnn import detectors
        cli.say(f"reading {model}")                # progress talk: dropped by --quiet
        with cli.progress("reading", 9) as done:   # a bar on a terminal, lines elsewhere, nothing for --quiet
            done(1)
        cli.console().print(table)                 # results: always, on standard output
        cli.write_json(json, result)               # to a file, or '-' for standard output
        raise UserError("one sentence")            # exit 2; RCNNError exits 1; typer.Exit(1) exits in silence

`--quiet` and `--debug` are the frame's, before or after the command's name: a command asks `cli.quiet()`.
Ctrl-C arrives as KeyboardInterrupt: a command that has something to say about it (how to resume) says so and lets it
pass; the frame exits with 130.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcnn.cli.output import console, progress, progress_console, quiet, require_targets, say, set_quiet, write_json
from rcnn.errors import RCNNError, UserError, nearest
from rcnn.files import telling
from rcnn.process import tune_process

if TYPE_CHECKING:
    import typer

__all__ = [
    "COMMANDS",
    "class_names",
    "console",
    "main",
    "progress",
    "progress_console",
    "quiet",
    "require_targets",
    "say",
    "write_json",
]

COMMANDS = {
    "demo": "Train, evaluate and report on the embedded digits, in minutes on two cores.",
    "doctor": "Versions, devices, what does not fit together, and the fix for each.",
    "models": "Systems and backbones, with their parameters and weights.",
    "data": "Data sets: info, check, convert.",
    "propose": "Find regions that may hold objects: Selective Search, or a model's own.",
    "train": "Train a detector on your data.",
    "eval": "Evaluate a trained detector by COCO's or VOC's protocol.",
    "predict": "Detect objects in images.",
    "import": "Make a model of another toolkit's weights: torchvision's, Detectron2's, Caffe's.",
    "export": "Write a model in the form of another program.",
    "compress": "Make a model's fully connected layers smaller and faster by truncated SVD.",
}

INTERRUPTED = 130  # what shells give for a process that SIGINT ended

# The shell sets the variable when it asks which words may follow; the options set that up. See `completion`.
COMPLETION, COMPLETION_OPTIONS = "_RCNN_COMPLETE", ("--install-completion", "--show-completion")

GLOBAL_OPTIONS = "Every command also takes --quiet (results only, no progress) and --debug (tracebacks)."


def class_names(text: str) -> list[str] | None:
    """The names in an option A,B,…; None where it was left out.

    Raises:
        UserError: something was given, but no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if text and not names:
        raise UserError(f"--classes '{text}': expected names, such as cat,dog")
    return names or None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (default: the process's own) and returns the exit code.

    0 success, 1 a failure, 2 what the user got wrong, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal must not turn "×" into a traceback
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, is_quiet = _without("--quiet", words)
    words, is_debug = _without("--debug", words)
    set_quiet(is_quiet)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone: what is still buffered must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if is_debug:
            traceback.print_exc()
        sentence, code = _told(error, is_debug)
        print(f"error: {sentence}", file=sys.stderr)
        return code


def _without(flag: str, words: list[str]) -> tuple[list[str], bool]:
    """`words` without `flag`, and whether it stood there; what follows a bare `--` is left alone."""
    end = words.index("--") if "--" in words else len(words)
    return [word for word in words[:end] if word != flag] + words[end:], flag in words[:end]


def _run(words: list[str]) -> int:
    """Finds and runs the command that `words` name; raises whatever goes wrong."""
    if COMPLETION in os.environ or (words and words[0] in COMPLETION_OPTIONS):
        from rcnn.cli.completion import answer

        return answer(words, COMMANDS)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, *rest = words
    if name == "--version":
        from rcnn import __version__

        print(f"rcnn {__version__}")
        return 0
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        raise UserError(f"there is no {what} '{name}'{nearest(name, COMMANDS)} (`rcnn --help` says what each does)")
    tune_process()
    return _invoke(name, rest)


def _overview() -> str:
    """What `rcnn --help` prints; imports nothing."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{help_line}" for name, help_line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rcnn COMMAND … [--quiet] [--debug]",
            "",
            "The R-CNN family of detectors: train, evaluate and use them.",
            "",
            *lines,
            "",
            "`rcnn COMMAND --help` says what a command takes; `rcnn --version` prints the version;",
            "`rcnn --install-completion` lets your shell complete commands and options.",
            GLOBAL_OPTIONS,
            "Exit codes: 0 success, 1 a failure, 2 something in the call or its files to put right.",
        ]
    )


def _invoke(name: str, rest: list[str]) -> int:
    """Imports the command's module and hands it the words after its name."""
    import typer

    module = importlib.import_module(f"rcnn.cli.{name}")
    grouped = hasattr(module, "app")
    application = module.app if grouped else _application(module.command)
    # Plain help: rich would read shapes such as [N, 4] as its own markup.
    application.rich_markup_mode = None
    application.pretty_exceptions_enable = False
    command = typer.main.get_command(application)
    for shown in (command, *getattr(command, "commands", {}).values()):
        shown.epilog = GLOBAL_OPTIONS
    try:
        result = command.main(args=rest or ["--help"] * grouped, prog_name=f"rcnn {name}", standalone_mode=False)
    except typer.Abort as abort:
        raise KeyboardInterrupt from abort
    if result == INTERRUPTED:  # typer catches Ctrl-C and, by its version, aborts or exits with this code
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _application(command: object) -> typer.Typer:
    """A typer application of one command."""
    import typer

    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(context_settings={"help_option_names": ["-h", "--help"]})(command)  # type: ignore[arg-type]
    return application


def _told(error: Exception, is_debug: bool) -> tuple[str, int]:
    """The sentence and exit code for `error`."""
    if isinstance(error, RCNNError):
        return str(error), error.exit_code
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors, of whatever version
        return " ".join(error.format_message().split()), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rcnn"):
        return f"the library '{error.name}' is missing; installing rcnn with pip brings all that it needs", 1
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        try:
            with telling(error.filename or "a file"):
                raise error
        except RCNNError as told:
            return str(told), told.exit_code
    message = " ".join(str(error).split())
    more = "" if is_debug else " (run again with --debug for the traceback)"
    return f"{type(error).__name__}: {message}{more}" if message else f"{type(error).__name__}{more}", 1
