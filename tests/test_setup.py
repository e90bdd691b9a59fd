"""The set-up that make runs: which index the pair comes from, what it says, and when nothing is left to do."""

from __future__ import annotations

import argparse
import builtins
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import setup_env  # noqa: E402
import torch_pair  # noqa: E402
from step import SetupError  # noqa: E402

CPU = torch_pair.CPU_INDEX
OWN = "https://wheels.example/simple"


def chosen(choice="auto", index="", *, system="Linux", has_gpu=False, reachable=(CPU, OWN)):
    """The source for a machine, with the indexes that answer there."""
    return torch_pair.choose_source(
        choice, index, system=system, has_gpu=has_gpu, answers=lambda address: address in reachable
    )


@pytest.mark.parametrize(
    ("case", "index", "download"),
    [
        ({}, CPU, 0.2),
        ({"reachable": ()}, None, 2.7),
        ({"has_gpu": True}, None, 2.7),
        ({"choice": "cpu", "has_gpu": True}, CPU, 0.2),
        ({"choice": "cuda"}, None, 2.7),
        ({"index": OWN, "choice": "cpu"}, OWN, 2.7),
        ({"system": "Darwin"}, None, 0.2),
        ({"system": "Darwin", "choice": "cpu"}, None, 0.2),
    ],
)
def test_the_pair_comes_from_the_users_index_else_from_what_fits_the_machine(case, index, download):
    source = chosen(**case)
    assert (source.index, source.download) == (index, download)


def test_what_will_be_downloaded_is_said_with_its_size_and_reason():
    line = chosen(reachable=()).announcement()
    for words in ("both from the configured package index", "2.7 GB to download", "5.4 GB on disk", "does not answer"):
        assert words in line


@pytest.mark.parametrize("case", [{"choice": "cpu", "reachable": ()}, {"index": OWN, "reachable": (CPU,)}])
def test_an_index_that_was_asked_for_and_is_silent_stops_the_setup_with_what_to_do(case):
    with pytest.raises(SetupError, match="TORCH_INDEX"):
        chosen(**case)


@pytest.mark.parametrize(
    ("torch", "build", "choice", "kept"),
    [
        ("2.15.0+cpu", "cpu", "auto", True),
        ("2.15.0", "13.2", "cpu", True),  # it runs without a GPU too
        ("2.15.0+cpu", "cpu", "cuda", False),
        ("2.15.0", "13.2", "cuda", True),
        ("2.9.1", "cpu", "auto", False),
        ("2.11.0", "cpu", "none", True),
    ],
)
def test_a_pair_that_loads_is_kept_unless_too_old_or_without_the_cuda_that_was_asked_for(torch, build, choice, kept):
    assert torch_pair.keeps(torch_pair.Pair(torch, "0.29.2", build), choice) is kept
    assert not torch_pair.keeps(None, choice)


def test_the_oldest_torch_is_the_one_of_the_package():
    assert f'"torch>={torch_pair.dotted(torch_pair.OLDEST_TORCH)}"' in (ROOT / "pyproject.toml").read_text()


def test_pip_sees_one_index_and_keeps_its_certificates_and_proxy():
    settings = {
        "global.cert": "/etc/own.pem",
        "global.find-links": "/wheels",
        "install.extra-index-url": "https://b.example",
        "global.proxy": "http://proxy.example",
        "list.format": "columns",
    }
    environment = {"PATH": "/bin", "PIP_FIND_LINKS": "/wheels", "PIP_PROXY": "http://nearer.example"}
    assert torch_pair.one_index_environment(settings, environment) == {
        "PATH": "/bin",
        "PIP_CERT": "/etc/own.pem",
        "PIP_PROXY": "http://nearer.example",
        "PIP_CONFIG_FILE": os.devnull,
    }


def test_an_index_that_never_answers_is_given_up_within_the_time_limit():
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
    start = time.monotonic()
    assert not torch_pair.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/simple", seconds=0.5)
    assert time.monotonic() - start < 3
    silent.close()


def test_an_index_that_answers_is_reachable_and_a_page_that_lacks_torch_is_not():
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for status in (b"200 OK", b"404 Not Found"):
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n")
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
    assert [torch_pair.answers(address), torch_pair.answers(address)] == [True, False]
    server.close()


def test_a_local_index_just_has_to_exist(tmp_path):
    assert torch_pair.answers(str(tmp_path))
    assert torch_pair.answers(tmp_path.as_uri())
    assert not torch_pair.answers(str(tmp_path / "none"))


def test_this_environments_own_pair_is_found():
    pair, reason = torch_pair.installed_pair(Path(sys.executable))
    assert reason == ""
    assert torch_pair.release(pair.torch) >= torch_pair.OLDEST_TORCH


def test_a_pair_that_does_not_load_comes_with_the_reason(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'RuntimeError: operator does not exist' >&2\nexit 1\n")
    python.chmod(0o755)
    assert torch_pair.installed_pair(python) == (None, "RuntimeError: operator does not exist")


def test_without_a_pair_none_says_so_and_installs_nothing(monkeypatch):
    monkeypatch.setattr(torch_pair, "installed_pair", lambda python: (None, "No module named 'torch'"))
    monkeypatch.setattr(torch_pair, "run", lambda *words: pytest.fail("nothing may be run"))
    with pytest.raises(SetupError, match="TORCH=none installs no torch"):
        torch_pair.make_pair(Path(sys.executable), "none", "")


def test_a_broken_half_goes_before_a_new_pair_comes_and_a_misfit_is_told_with_the_fix(monkeypatch):
    commands = []
    monkeypatch.setattr(torch_pair, "installed_pair", lambda python: (None, "operator torchvision::nms does not exist"))
    monkeypatch.setattr(torch_pair, "choose_source", lambda *_, **__: torch_pair.Source(OWN, "a test", 0.0, 0.0))
    monkeypatch.setattr(torch_pair, "run", lambda command, *_: commands.append([str(word) for word in command]))
    with pytest.raises(SetupError, match=r"do not work together .*remove .* and run make again"):
        torch_pair.make_pair(Path(sys.executable), "auto", OWN)
    uninstall, install = commands
    assert uninstall[3] == "uninstall"
    assert uninstall[-2:] == ["torch", "torchvision"]
    assert install[-4:] == ["--index-url", OWN, "torch>=2.11", "torchvision"]


def test_too_small_a_disk_is_told_before_anything_is_removed(monkeypatch):
    monkeypatch.setattr(torch_pair, "installed_pair", lambda python: (None, "no torch"))
    monkeypatch.setattr(torch_pair, "choose_source", lambda *_, **__: torch_pair.Source(OWN, "a test", 1.0, 1e9))
    monkeypatch.setattr(torch_pair, "run", lambda *words: pytest.fail("nothing may be run"))
    with pytest.raises(SetupError, match="make room"):
        torch_pair.make_pair(Path(sys.executable), "auto", OWN)


def test_a_missing_venv_module_is_told_with_the_apt_line(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name == "ensurepip":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(setup_env, "venv_package", lambda *_: "python3-venv")
    with pytest.raises(SetupError, match=r"run: sudo apt install python3-venv$"):
        setup_env.make_environment(tmp_path / "venv", see_system=False)
    assert not (tmp_path / "venv").exists()


def test_the_apt_package_is_that_of_the_default_python_or_of_its_version(tmp_path):
    real, default, other = tmp_path / "python3.11", tmp_path / "python3", tmp_path / "python3.13"
    real.touch()
    other.touch()
    default.symlink_to(real)
    assert setup_env.venv_package(real, default, (3, 11)) == "python3-venv"
    assert setup_env.venv_package(default, default, (3, 11)) == "python3-venv"
    assert setup_env.venv_package(other, default, (3, 13)) == "python3.13-venv"


def options(torch="auto", index="", extras=""):
    """The set-up's command line, as read."""
    return argparse.Namespace(torch=torch, torch_index=index, extras=extras)


def test_a_setup_that_serves_is_not_made_again(tmp_path):
    stamp = tmp_path / "stamp.json"
    assert not setup_env.is_done(stamp, setup_env.wanted_stamp(options()))
    stamp.write_text(setup_env.json.dumps(setup_env.wanted_stamp(options("cpu", OWN, "dev"))))
    for serves in (options(), options("cpu"), options("auto", OWN), options(extras="dev")):
        assert setup_env.is_done(stamp, setup_env.wanted_stamp(serves))
    for lacks in (options("cuda"), options("auto", "https://other.example"), options(extras="dev,tensorboard")):
        assert not setup_env.is_done(stamp, setup_env.wanted_stamp(lacks))
    changed = {**setup_env.wanted_stamp(options()), "project": "another pyproject.toml"}
    assert not setup_env.is_done(stamp, changed)
    stamp.write_text("{half")
    assert not setup_env.is_done(stamp, setup_env.wanted_stamp(options()))


def test_an_unknown_choice_of_torch_is_refused(capsys):
    assert setup_env.main(["--torch", "gpu"]) == 1
    assert capsys.readouterr().err == "error: TORCH=gpu is not known; it is one of auto, cpu, cuda, none\n"


def test_a_python_that_is_too_old_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 2))
    assert setup_env.main([]) == 1
    assert "PYTHON=python3.11" in capsys.readouterr().err


def test_make_passes_every_choice_to_the_setup_and_both_targets_set_up_first():
    words = ["make", "-n", "TORCH=cpu", f"TORCH_INDEX={OWN}", "PYTHON=python3.x", "VENV=elsewhere"]
    setup = f'python3.x scripts/setup_env.py --venv "elsewhere" --torch "cpu" --torch-index "{OWN}"'
    for target, first in (("demo", setup), ("test", f"{setup} --extras dev"), ("check", f"{setup} --extras dev")):
        # Under `make test` this make would take itself for that one's part, and say so in its first line.
        apart = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
        done = subprocess.run([*words, target], cwd=ROOT, capture_output=True, text=True, check=True, env=apart)
        planned = done.stdout
        assert planned.splitlines()[0] == first
        assert "elsewhere/bin/" in planned.splitlines()[1]
