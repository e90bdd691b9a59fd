"""`rcnn doctor`: what this machine and this installation can do, what does not fit, and the fix for each.

Each check is a small function that returns findings; none of them may raise, because a doctor is called when things
are broken. Nothing is changed and nothing is downloaded.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rcnn import cli
from rcnn.process import cpus

State = Literal["ok", "note", "broken"]

# Distribution → what needs it; the keys are the dependencies of pyproject.toml.
NEEDED_FOR = {
    "torch": "everything",
    "torchvision": "everything",
    "numpy": "everything",
    "pillow": "reading and drawing images",
    "numba": "the fast kernels on the CPU",
    "scikit-learn": "the embedded digits",
    "faster-coco-eval": "evaluation by COCO's protocol",
    "safetensors": "model files",
    "typer": "the command line",
    "rich": "tables and progress bars",
    "matplotlib": "plots",
    "jinja2": "reports",
    "pyyaml": "YOLO data sets",
}
CPU_WHEELS = "--index-url https://download.pytorch.org/whl/cpu"
ROOMY = 2e9  # bytes of memory below which training small images gets tight
SHARED_ROOMY = 256e6  # bytes of /dev/shm: containers often have 64 MB, and loader workers die of it


@dataclass(frozen=True)
class Finding:
    """One line of the report. "note" works but could be better; "broken" keeps something from working."""

    name: str
    value: str
    state: State = "ok"
    fix: str = ""


def command(
    json: Annotated[
        str, typer.Option(metavar="FILE|-", help="Write the findings as JSON too; - is standard output.")
    ] = "",
) -> None:
    """Says what this machine can do, what does not fit together, and the fix for each.

    Exits with 0 where the library can be used and 1 where it cannot.
    """
    found = examine()
    usable = all(finding.state != "broken" for finding in found)
    if json:
        cli.write_json(json, {"usable": usable, "findings": [asdict(finding) for finding in found]})
    if json != "-":
        _show(found, usable)
    if not usable:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Runs every check, in order; a check that itself fails becomes a finding."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        python, libraries, pair, accelerators, compute, memory, kernels, compiler, evaluation, pictures, caches,
    )  # fmt: skip
    found = []
    for check in checks:
        try:
            found.extend(check())
        except Exception as error:
            found.append(Finding(check.__name__, f"could not be examined: {type(error).__name__}: {error}", "note"))
    return found


def _show(found: list[Finding], usable: bool) -> None:
    """Prints the findings, each with its fix, and the verdict."""
    marks = {"ok": "  ", "note": "· ", "broken": "✗ "}
    width = max(len(finding.name) for finding in found) + 2
    for finding in found:
        print(f"{marks[finding.state]}{finding.name:<{width}}{finding.value}")
        if finding.fix:
            print(f"  {'':<{width}}→ {finding.fix}")
    print()
    broken = [finding.name for finding in found if finding.state == "broken"]
    print("rcnn can be used here." if usable else f"rcnn cannot be used here yet: see {', '.join(broken)}.")


def python() -> Iterator[Finding]:
    """This library, its place, and the Python it runs in."""
    from rcnn import __file__ as place
    from rcnn import __version__

    yield Finding("rcnn", f"{__version__}, {Path(place).parent}")
    environment = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    yield Finding("Python", f"{platform.python_version()}, {environment} {sys.prefix}")
    yield Finding("system", platform.platform())


def libraries() -> Iterator[Finding]:
    """The version of each library that is needed, or what goes without it."""
    floors = _floors()
    for name, purpose in NEEDED_FOR.items():
        floor = floors.get(name, "0")
        try:
            have = version(name)
        except PackageNotFoundError:
            yield Finding(name, f"missing; it is needed for {purpose}", "broken", f"pip install '{name}>={floor}'")
            continue
        if _release(have) < _release(floor):
            value = f"{have} is older than {floor}; it is needed for {purpose}"
            yield Finding(name, value, "broken", f"pip install --upgrade '{name}>={floor}'")
        else:
            yield Finding(name, have)


def _floors() -> dict[str, str]:
    """The oldest version of each dependency that the installed package asks for."""
    try:
        wanted = requires("rcnn") or []
    except PackageNotFoundError:  # a source tree that was never installed
        return {}
    return dict(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(wanted), re.MULTILINE))


def _release(version: str) -> tuple[int, ...]:
    """(2, 15) of "2.15.0+cpu": major and minor, which is what floors are about."""
    return tuple(map(int, re.findall(r"\d+", version.split("+")[0])[:2]))


def pair() -> Iterator[Finding]:
    """Whether torch and torchvision load and fit each other."""
    name = "torch + torchvision"
    try:
        import torch
    except Exception as error:
        yield Finding(name, f"torch does not load: {_first_line(error)}", "broken", _pair_fix())
        return
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        reason = f"torch {torch.__version__} loads, torchvision does not fit it: {_first_line(error)}"
        yield Finding(name, reason, "broken", _pair_fix())
        return
    yield Finding(name, f"{torch.__version__} + {torchvision.__version__} fit each other")


def _pair_fix() -> str:
    """How to get a pair from one index."""
    return (
        "take both from one index: pip uninstall -y torch torchvision && pip install torch torchvision "
        f"(without a GPU, smaller: pip install torch torchvision {CPU_WHEELS})"
    )


def accelerators() -> Iterator[Finding]:
    """GPUs that torch can use, and GPUs that it cannot use though they are here."""
    import torch

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        capability = f"compute capability {card.major}.{card.minor}, `--precision auto` is {precision}"
        yield Finding(f"GPU cuda:{index}", f"{card.name}, {_gigabytes(card.total_memory)}, {capability}")
    if torch.backends.mps.is_available():
        yield Finding("GPU mps", "Apple's GPU")
    if torch.cuda.is_available():
        yield _gpu_kernels()
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("GPU", "none; everything runs on the CPU")
    elif torch.version.cuda is None:
        fix = "pip uninstall -y torch torchvision && pip install torch torchvision"
        yield Finding("GPU", "an NVIDIA GPU is here, but this torch was built without CUDA", "note", fix)
    else:
        fix = "compare `nvidia-smi` with torch's CUDA version, and update the driver"
        yield Finding(
            "GPU", f"an NVIDIA driver is here, but torch (CUDA {torch.version.cuda}) sees no GPU", "note", fix
        )


def _gpu_kernels() -> Finding:
    """Which kernels run on the GPUs; asking compiles a small one, once for a machine."""
    from rcnn.kernels import form

    if form("cuda").__name__ == "rcnn.kernels.cuda":
        return Finding("GPU kernels", "Triton; each is compiled at its first use")
    reason = "torchvision's: Triton is missing or does not run here (it needs compute capability 8.0)"
    return Finding("GPU kernels", reason, "note", "pip install --upgrade triton, where the GPU is new enough")


def compute() -> Iterator[Finding]:
    """Cores, instruction set and threads."""
    import torch

    cores, threads = cpus(), torch.get_num_threads()
    yield Finding("CPU", f"{cores} cores for this process, {torch.backends.cpu.get_cpu_capability()}")
    if threads > cores:
        yield Finding("threads", f"torch starts {threads} on {cores} cores", "note", f"export OMP_NUM_THREADS={cores}")
    else:
        yield Finding("threads", f"torch starts {threads}")


def memory() -> Iterator[Finding]:
    """Main memory, shared memory for loader workers, and room on the disk."""
    free = _available_memory()
    if free is not None:
        state: State = "ok" if free > ROOMY else "note"
        fix = "" if state == "ok" else "close other programs, or train with --batch-size 1 and a small --image-size"
        yield Finding("memory", f"{_gigabytes(free)} free", state, fix)
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared).total
        state = "ok" if room > SHARED_ROOMY else "note"
        fix = "" if state == "ok" else "train with --workers 0, or start the container with --shm-size=2g"
        yield Finding("shared memory", f"{_gigabytes(room)}, through which loader workers pass images", state, fix)
    yield Finding("disk", f"{_gigabytes(shutil.disk_usage(Path.cwd()).free)} free here")


def kernels() -> Iterator[Finding]:
    """Whether numba works and may keep what it compiles."""
    try:
        import numba
    except Exception as error:
        reason = f"numba does not load ({_first_line(error)}); slower kernels in torch are used"
        yield Finding("CPU kernels", reason, "note", "pip install --upgrade numba")
        return
    folder = kernel_folder()
    if _is_writable(folder):
        yield Finding("CPU kernels", f"numba {numba.__version__}, compiled kernels are kept in {folder}")
    else:
        reason = f"numba {numba.__version__} cannot keep compiled kernels in {folder}: each start compiles again"
        yield Finding("CPU kernels", reason, "note", "export NUMBA_CACHE_DIR=FOLDER, one that you may write to")


def compiler() -> Iterator[Finding]:
    """A C++ compiler, which `torch.compile` needs on the CPU and nothing else does."""
    found = next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
    if found:
        yield Finding("compiler", f"{found}, for torch.compile")
    else:
        yield Finding("compiler", "none; only torch.compile on the CPU needs one", "note", "sudo apt install g++")


def evaluation() -> Iterator[Finding]:
    """The library behind COCO's protocol; VOC's is our own."""
    if _loads("faster_coco_eval"):
        yield Finding("evaluation", "COCO through faster-coco-eval, VOC built in")
    elif _loads("pycocotools"):
        yield Finding(
            "evaluation", "COCO through pycocotools (slower), VOC built in", "note", "pip install faster-coco-eval"
        )
    else:
        yield Finding("evaluation", "VOC only", "broken", "pip install faster-coco-eval")


def pictures() -> Iterator[Finding]:
    """The image formats that Pillow reads, and letters to draw with."""
    from PIL import features

    codecs = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "TIFF": "libtiff"}
    missing = [name for name, codec in codecs.items() if not features.check(codec)]
    fix = "pip install --force-reinstall pillow" if missing else ""
    value = f"without {', '.join(missing)}" if missing else ", ".join(codecs)
    yield Finding("image formats", value, "note" if missing else "ok", fix)
    if features.check("freetype2"):
        yield Finding("fonts", "FreeType, with Pillow's own font for class names")
    else:
        fix = "pip install --force-reinstall pillow"
        yield Finding("fonts", "no FreeType: class names are drawn in a tiny bitmap font", "note", fix)


def caches() -> Iterator[Finding]:
    """Folders that grow, with their sizes; all of them can be deleted at any time."""
    from rcnn.files import cache_folder

    places = {"numba": kernel_folder(), "matplotlib": _user_cache() / "matplotlib"}
    places |= {f"rcnn {folder.name}": folder for folder in sorted(cache_folder().glob("*/"))}
    for name, folder in places.items():
        if folder.is_dir():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Finding("cache", f"{name}: {size / 1e6:.1f} MB in {folder}")


def _user_cache() -> Path:
    """The user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def kernel_folder() -> Path:
    """Where numba keeps compiled kernels: NUMBA_CACHE_DIR, else beside their module, else in the user's cache."""
    from rcnn import __file__ as place

    if own := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(own)
    beside = Path(place).parent / "kernels" / "cpu" / "__pycache__"
    return beside if _is_writable(beside) else _user_cache() / "numba"


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of main memory that can be had without swapping; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _loads(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True


def _first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _gigabytes(size: Any) -> str:
    """ "1.5 GB" of 1,500,000,000."""
    return f"{size / 1e9:.1f} GB"
