"""Makes the virtual environment that `make demo`, `make test` and `make check` run in.

Needs nothing but a Python 3.11 with `venv`. Four steps, each skipped where it is done already: the environment, a
pair of torch and torchvision that work together, this package, and the extras asked for. What was done is kept in a
stamp file, so that a second call returns at once and a changed pyproject.toml installs again.

    python3 scripts/setup_env.py [--venv .venv] [--torch auto|cpu|cuda|none] [--torch-index URL] [--extras dev]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from step import ROOT, SetupError, run, say
from torch_pair import CHOICES, dotted, make_pair

OLDEST_PYTHON = (3, 11)


def venv_package(executable: Path, default: Path, version: tuple) -> str:
    """The Debian package that brings `venv` to this Python: the default one's, or that of its version."""
    own = executable.exists() and default.exists() and executable.resolve() == default.resolve()
    return "python3-venv" if own else f"python{version[0]}.{version[1]}-venv"


def make_environment(venv: Path, *, see_system: bool) -> Path:
    """Creates the environment where there is none that works, and returns its Python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (
        python.exists()
        and not subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode
    ):
        return python
    try:
        import ensurepip  # noqa: F401  Debian ships it apart
        import venv as _  # noqa: F401
    except ImportError:
        package = venv_package(Path(sys.executable), Path("/usr/bin/python3"), sys.version_info[:2])
        raise SetupError(f"this Python cannot make virtual environments; run: sudo apt install {package}") from None
    say(f"making the virtual environment {venv}")
    command = [sys.executable, "-m", "venv", "--clear", *(["--system-site-packages"] if see_system else []), str(venv)]
    try:
        run(command, "the virtual environment could not be made")
    except BaseException:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    return python


def install_package(python: Path, extras: str) -> None:
    """Installs this package in place, with its libraries and `extras`."""
    what = f".[{extras}]" if extras else "."
    say(f"installing rcnn ({what}) and its libraries; about 0.2 GB to download, 0.6 GB on disk")
    pip = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    # The build tool stands in the environment, so that installing again asks for nothing from outside.
    run([*pip, "setuptools>=77"], "setuptools could not be installed")
    run([*pip, "--no-build-isolation", "-e", what], "rcnn could not be installed")


def wanted_stamp(options: argparse.Namespace) -> dict:
    """What the stamp file says after a set-up with these options."""
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return {"project": project, "torch": options.torch, "index": options.torch_index, "extras": options.extras}


def is_done(stamp: Path, wanted: Mapping[str, str]) -> bool:
    """Whether a set-up like the wanted one stands; one with more extras, or with an asked-for torch, serves as well."""
    try:
        done = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    has_extras = set(filter(None, wanted["extras"].split(","))) <= set(filter(None, done.get("extras", "").split(",")))
    same_torch = wanted["torch"] in ("auto", done.get("torch")) and wanted["index"] in ("", done.get("index"))
    return has_extras and same_torch and done.get("project") == wanted["project"]


def options_of(arguments: list | None) -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(description="Makes the virtual environment that make's targets run in.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--torch", default="auto", help="|".join(CHOICES))
    parser.add_argument("--torch-index", default="", help="an index that has both torch and torchvision")
    parser.add_argument("--extras", default="", help="e.g. dev or dev,tensorboard")
    options = parser.parse_args(arguments)
    options.torch, options.torch_index = options.torch.strip() or "auto", options.torch_index.strip()
    if options.torch not in CHOICES:
        raise SetupError(f"TORCH={options.torch} is not known; it is one of {', '.join(CHOICES)}")
    return options


def main(arguments: list | None = None) -> int:
    """Sets up, and returns the exit code."""
    try:
        if sys.version_info < OLDEST_PYTHON:
            have, need = platform.python_version(), dotted(OLDEST_PYTHON)
            raise SetupError(f"Python {have} is too old; name one of {need} or newer: make … PYTHON=python{need}")
        options = options_of(arguments)
        venv = ROOT / options.venv
        stamp, wanted = venv / ".rcnn-setup.json", wanted_stamp(options)
        if is_done(stamp, wanted):
            return 0
        python = make_environment(venv, see_system=options.torch == "none")
        make_pair(python, options.torch, options.torch_index)
        install_package(python, options.extras)
        stamp.write_text(json.dumps(wanted))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run make again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
