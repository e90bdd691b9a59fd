"""The command line's frame: what it imports, what it says, and the code it exits with."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer

from rcnn import cli
from rcnn.errors import RCNNError, UserError

HEAVY = ("torch", "torchvision", "numpy", "numba", "PIL", "sklearn", "matplotlib", "pydantic", "rich")


def modules_after(program: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after a program."""
    listing = "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program + listing], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture
def fake(monkeypatch):
    """Makes a command `fake` of a function."""

    def install(command) -> None:
        module = types.ModuleType("rcnn.cli.fake")
        module.command = command
        monkeypatch.setitem(sys.modules, "rcnn.cli.fake", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", "A command for a test.")

    return install


def raising(error: BaseException):
    """A command that fails with `error`."""

    def command() -> None:
        """Fails."""
        raise error

    return command


@pytest.mark.parametrize("words", [["--help"], [], ["--version"], ["nonsense"]])
def test_answers_without_a_command_import_nothing_heavy(words):
    loaded = modules_after(f"from rcnn.cli import main; main({words!r})")
    assert not loaded & {*HEAVY, "typer"}


@pytest.mark.parametrize("name", [*cli.COMMANDS])
def test_a_command_says_its_help_without_importing_anything_heavy(name):
    assert importlib.util.find_spec(f"rcnn.cli.{name}") is not None
    loaded = modules_after(f"from rcnn.cli import main; assert main([{name!r}, '--help']) == 0")
    assert not loaded & (set(HEAVY) - {"rich"})  # typer may bring rich


def test_only_the_called_command_is_imported():
    loaded = "import sys; from rcnn.cli import main; main(['doctor', '--help'])\n"
    loaded += "print(sorted(name for name in sys.modules if name.startswith('rcnn.cli.')))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(["rcnn.cli.doctor", "rcnn.cli.output"])


def test_help_lists_every_command_with_its_line(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert f"{name} " in text
        assert line in text


def is_command(source: str) -> bool:
    """Whether a module's text defines what the frame looks for."""
    return re.search(r"^(def command\(|app = typer\.Typer\()", source, re.MULTILINE) is not None


def test_every_listed_command_has_a_module_and_every_module_is_listed():
    folder = Path(cli.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    commands = {name for name in modules if is_command((folder / f"{name}.py").read_text())}
    assert commands == set(cli.COMMANDS)


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    captured = capsys.readouterr()
    assert "did you mean 'train'?" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("'x.jpg' does not exist"), 2, "error: 'x.jpg' does not exist"),
        (RCNNError("the disk is full"), 1, "error: the disk is full"),
        (ValueError("odd\nvalue"), 1, "error: ValueError: odd value (run again with --debug"),
        (ZeroDivisionError(), 1, "error: ZeroDivisionError (run again with --debug"),
        (FileNotFoundError(2, "No such file or directory", "gone.txt"), 2, "error: 'gone.txt' does not exist"),
        (PermissionError(13, "Permission denied", "/locked"), 2, "error: no permission to use '/locked'"),
        (OSError(28, "No space left on device", "big.bin"), 1, "error: the disk is full"),
        (
            ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"),
            1,
            "library 'tensorboard' is missing",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_each_kind_of_failure_is_one_sentence_and_a_code(fake, capsys, error, code, words):
    fake(raising(error))
    assert cli.main(["fake"]) == code
    text = capsys.readouterr().err.strip()
    assert words in text
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("words", [["--debug", "fake"], ["fake", "--debug"]])
def test_debug_adds_the_traceback_before_or_after_the_command(fake, capsys, words):
    fake(raising(UserError("a sentence")))
    assert cli.main(words) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert text.endswith("error: a sentence\n")


@pytest.mark.parametrize(
    "words", [["fake", "--nmae", "x"], ["fake", "one", "two"], ["fake", "--count", "many"], ["fake"]]
)
def test_a_wrong_option_argument_or_value_is_one_sentence_and_code_2(fake, capsys, words):
    def command(place: str, name: str = "", count: int = 1) -> None:
        """Takes a place."""

    fake(command)
    assert cli.main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_quiet_drops_talk_and_keeps_results(fake, capsys):
    def command() -> None:
        """Talks."""
        cli.say("talk")
        print("result")

    fake(command)
    for words, talk in ((["fake"], "talk\n"), (["fake", "--quiet"], ""), (["--quiet", "fake"], "")):
        assert cli.main(words) == 0
        assert capsys.readouterr() == ("result\n", talk)


def test_words_after_two_dashes_are_the_commands_own(fake, capsys):
    def command(words: Annotated[list[str], typer.Argument()]) -> None:
        """Prints its arguments."""
        print(words)

    fake(command)
    assert cli.main(["fake", "--", "--quiet"]) == 0
    assert capsys.readouterr().out == "['--quiet']\n"


def test_a_commands_own_code_is_the_exit_code(fake):
    fake(raising(typer.Exit(1)))
    assert cli.main(["fake"]) == 1


def test_progress_off_a_terminal_is_a_line_each_tenth_and_quiet_drops_it(fake, capsys):
    def command() -> None:
        """Works in steps of 8, as batches come."""
        with cli.progress("working", 200) as done:
            for count in range(8, 201, 8):
                done(count)

    fake(command)
    assert cli.main(["fake"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert (lines[0], lines[-1]) == ("working: 24 of 200", "working: 200 of 200")
    assert cli.main(["fake", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("rcnn.cli.output._is_quiet", False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with cli.progress("working", 2) as done:
        done(2)
    assert "2/2" in capsys.readouterr().err


def test_json_goes_to_a_file_or_to_standard_output(tmp_path, capsys):
    cli.write_json(tmp_path / "deep" / "x.json", {"a": [1, "×"]})
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == '{\n  "a": [\n    1,\n    "×"\n  ]\n}\n'
    cli.write_json("-", [1])
    assert capsys.readouterr().out == "[\n  1\n]\n"


def test_json_refuses_figures_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        cli.write_json(tmp_path / "x.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_early_is_no_error():
    program = "from rcnn.cli import main; import rcnn.cli as cli; cli.COMMANDS['x'] = 'y' * 200_000; exit(main(['-h']))"
    command = f'"{sys.executable}" -c "{program}" | head -c 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_terminal_without_the_letter_gets_an_escape_and_no_traceback():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "rcnn", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0
    assert "\\u2026" in done.stdout


def test_an_interrupted_process_exits_with_130():
    program = """
import os, signal, sys, time, types
from rcnn import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored

def command() -> None:
    "Waits."
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

sys.modules["rcnn.cli.fake"] = module = types.ModuleType("rcnn.cli.fake")
module.command = command
cli.COMMANDS["fake"] = ""
sys.exit(cli.main(["fake"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
