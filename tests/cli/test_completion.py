"""What the shell completes, as bash and zsh ask for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; sys.argv[0] = 'rcnn'; from rcnn.cli import main; sys.exit(main())"


def asked(*words: str, **variables: str) -> subprocess.CompletedProcess:
    """`rcnn` in a process of its own with these environment variables."""
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", **variables}
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rcnn tr", ["train"]),
        ("rcnn train --wei", ["--weights"]),
        ("rcnn data c", ["check", "convert"]),
        ("rcnn nothing-like-it", []),
    ],
)
def test_commands_options_and_sub_commands_are_completed(line, expected):
    count = str(len(line.split()) - 1)
    done = asked(_RCNN_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=count)
    assert done.stdout.split() == expected
    assert done.stderr == ""


def test_every_command_is_offered():
    from rcnn.cli import COMMANDS

    done = asked(_RCNN_COMPLETE="complete_bash", COMP_WORDS="rcnn ", COMP_CWORD="1")
    assert set(done.stdout.split()) >= set(COMMANDS)


def test_the_script_is_shown_and_installed_where_the_shell_reads_it(tmp_path):
    shown = asked("--show-completion", "bash")
    assert shown.returncode == 0
    assert "_RCNN_COMPLETE=complete_bash" in shown.stdout
    installed = asked("--install-completion", "bash", HOME=str(tmp_path))
    assert installed.returncode == 0, installed.stderr
    assert ".sh" in (tmp_path / ".bashrc").read_text()
    (script,) = tmp_path.rglob("rcnn.sh")
    assert "_RCNN_COMPLETE" in script.read_text()


def test_a_shell_that_is_not_known_is_refused():
    assert asked("--show-completion", "tcl").returncode != 0


def test_completing_imports_nothing_heavy():
    program = "import sys; from rcnn.cli import main; main(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    environment = {**os.environ, "_RCNN_COMPLETE": "complete_bash", "COMP_WORDS": "rcnn tr", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
