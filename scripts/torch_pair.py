"""A torch and a torchvision that work together, both from ONE index.

A pair from two indexes does not load: the compiled half of torchvision is built against one build of torch
("operator torchvision::nms does not exist"). A pair that imports is kept; else the user's word decides where the new
one comes from, else what this machine has and can reach.
"""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from step import SetupError, run, say

OLDEST_TORCH = (2, 11)  # as in pyproject.toml
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's documented index of CPU-only wheels
PLAIN_INDEX = "https://pypi.org/simple"  # pip's own default, where nothing else is configured
PROBE_SECONDS = 5.0
CHOICES = ("auto", "cpu", "cuda", "none")

# What the environment's Python is asked about its pair: prints versions, or dies with the reason.
PAIR_PROBE = """
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
print(torch.__version__, torchvision.__version__, torch.version.cuda or "cpu")
"""


class Source(NamedTuple):
    """Where the pair comes from: an index (None: as pip is configured), why, and GB to download and on disk."""

    index: str | None
    why: str
    download: float
    disk: float

    def announcement(self) -> str:
        """The line that is printed before anything is downloaded."""
        place = self.index or "the configured package index"
        return (
            f"torch and torchvision: both from {place} ({self.why}); "
            f"about {self.download:g} GB to download, {self.disk:g} GB on disk"
        )


class Pair(NamedTuple):
    """An importable torch and torchvision: versions, and the CUDA version or "cpu"."""

    torch: str
    torchvision: str
    build: str


def small(index: str | None, why: str) -> Source:
    """A pair without CUDA libraries."""
    return Source(index, why, 0.2, 1.0)


def large(index: str | None, why: str, system: str) -> Source:
    """The pair of the plain index; on Linux it carries the CUDA libraries."""
    return Source(index, why, 2.7, 5.4) if system == "Linux" else small(index, why)


def choose_source(choice: str, index: str, *, system: str, has_gpu: bool, answers: Callable[[str], bool]) -> Source:
    """Decides where the pair comes from.

    Args:
        choice: what the user asked for: "auto", "cpu" or "cuda".
        index: an index of the user's own, or "".
        system: `platform.system()`.
        has_gpu: whether an NVIDIA GPU is present.
        answers: a function from an index's address to whether it can be reached.
    """
    if index:
        if not answers(index):
            raise SetupError(
                f"the index {index} does not answer within {PROBE_SECONDS:g} s; check TORCH_INDEX, or leave it away"
            )
        return large(index, "TORCH_INDEX", system)
    if choice == "cpu":
        if system != "Linux":
            return small(None, f"TORCH=cpu; on {system} the plain wheels have no CUDA")
        if not answers(CPU_INDEX):
            raise SetupError(
                f"the index of CPU-only wheels, {CPU_INDEX}, does not answer; give a mirror of it with "
                "TORCH_INDEX=URL, or use TORCH=cuda: those wheels are larger and run without a GPU too"
            )
        return small(CPU_INDEX, "TORCH=cpu")
    if choice == "cuda":
        return large(None, "TORCH=cuda", system)
    if system != "Linux":
        return small(None, f"{system}'s plain wheels")
    if has_gpu:
        return large(None, "an NVIDIA GPU is here", system)
    if answers(CPU_INDEX):
        return small(CPU_INDEX, "no NVIDIA GPU is here; TORCH=cuda takes the other build")
    return large(None, f"{CPU_INDEX} does not answer, so the CUDA build is taken; it runs without a GPU too", system)


def keeps(pair: Pair | None, choice: str) -> bool:
    """Whether an importable pair stays: new enough, and with CUDA where CUDA was asked for."""
    if pair is None or release(pair.torch) < OLDEST_TORCH:
        return False
    return choice != "cuda" or pair.build != "cpu"


def release(version: str) -> tuple:
    """(2, 15) of "2.15.0+cpu"."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def one_index_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict:
    """The environment in which pip sees the index it is given and no other source of wheels.

    pip adds `find-links` and `extra-index-url` from its configuration to any `--index-url`, and would take one wheel
    here and one there. Its other settings (certificates, proxy) are carried over.

    Args:
        settings: pip's configuration files, e.g. {"global.cert": "/etc/…"}.
        environment: the process's variables.
    """
    sources = ("find-links", "extra-index-url", "no-index")
    kept = {key: value for key, value in environment.items() if key not in {pip_variable(name) for name in sources}}
    carried = {
        pip_variable(name): value
        for section, name, value in ((*key.split(".", 1), value) for key, value in settings.items() if "." in key)
        if section in ("global", "install") and name not in sources
    }
    return {**carried, **kept, "PIP_CONFIG_FILE": os.devnull}


def pip_variable(name: str) -> str:
    """PIP_EXTRA_INDEX_URL of "extra-index-url"."""
    return "PIP_" + name.upper().replace("-", "_")


def answers(index: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether an index can be reached within `seconds`, name look-up included; a local folder just has to exist."""
    if not index.startswith(("http://", "https://")):
        return Path(index[len("file://") :] if index.startswith("file://") else index).exists()
    outcome = []

    def ask() -> None:
        certificates = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
        try:
            context = ssl.create_default_context(cafile=certificates)
            page = index.rstrip("/") + "/torch/"
            with urllib.request.urlopen(page, timeout=seconds, context=context):
                outcome.append(True)
        except (OSError, ValueError):
            pass

    # A thread, because no time limit covers the look-up of a name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds + 1)
    return bool(outcome)


def installed_pair(python: Path) -> tuple:
    """(the environment's importable pair, "") or (None, why it does not import)."""
    asked = subprocess.run([python, "-c", PAIR_PROBE], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        return Pair(*asked.stdout.split()[-3:]), ""
    lines = asked.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"Python died with code {asked.returncode}"


def make_pair(python: Path, choice: str, index: str) -> None:
    """Leaves the environment with a torch and a torchvision that work together."""
    pair, reason = installed_pair(python)
    if keeps(pair, choice):
        say(f"torch {pair.torch} and torchvision {pair.torchvision} work together and are kept")
        return
    if choice == "none":
        found = f"torch {pair.torch} is older than {dotted(OLDEST_TORCH)}" if pair else reason
        raise SetupError(f"TORCH=none installs no torch, and the one that is here cannot be used ({found})")
    has_gpu = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    source = choose_source(choice, index, system=platform.system(), has_gpu=has_gpu, answers=answers)
    say(source.announcement())
    free = shutil.disk_usage(python.parent).free / 1e9
    if free < source.disk:
        raise SetupError(f"{source.disk:g} GB are needed and {free:.1f} GB are free in {python.parent}; make room")
    # Half of a pair that is already there would be kept by pip, and not fit the half that comes.
    run([python, "-m", "pip", "uninstall", "-qq", "-y", "torch", "torchvision"], "the old pair could not be removed")
    install_pair(python, source)
    pair, reason = installed_pair(python)
    if pair is None:
        raise SetupError(
            f"torch and torchvision were installed but do not work together ({reason}); remove "
            f"'{python.parent.parent}' and run make again with TORCH=cpu, TORCH=cuda or TORCH_INDEX=URL of an index "
            "that has both"
        )
    say(f"torch {pair.torch} and torchvision {pair.torchvision} work together")


def install_pair(python: Path, source: Source) -> None:
    """Takes both wheels from one index; where that index is silent, from what else pip is configured with."""
    wanted = [f"torch>={dotted(OLDEST_TORCH)}", "torchvision"]
    install = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    settings = pip_settings(python)
    failure = "torch and torchvision could not be installed (TORCH_INDEX=URL names an index that has both)"
    primary = os.environ.get("PIP_INDEX_URL") or settings.get("global.index-url") or PLAIN_INDEX
    if source.index is None and not answers(primary):
        # pip alone would try for minutes before it looked at the other sources.
        say("the package index does not answer; what else pip is configured with is tried")
        run([*install, "--retries", "0", "--timeout", "10", *wanted], failure)
        return
    environment = one_index_environment(settings, os.environ)
    run([*install, "--index-url", source.index or primary, *wanted], failure, environment)


def pip_settings(python: Path) -> dict:
    """pip's configuration files, as {"global.cert": "/etc/…"}; of several lines or words, as pip reads them."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    pairs = (line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
    return {key: value.strip("'\"") for key, value in pairs if not key.startswith(":env:")}


def dotted(version: tuple) -> str:
    """ "2.11" of (2, 11)."""
    return ".".join(map(str, version))
