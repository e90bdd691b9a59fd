"""What is shipped, what importing costs, and that the public names lead somewhere."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import rcnn

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "torchvision", "numpy", "numba", "PIL", "sklearn", "matplotlib", "pydantic", "typer", "rich", "yaml"}


def loaded_after(program: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after a program."""
    listing = "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program + listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_rcnn_imports_nothing_heavy():
    assert not loaded_after("import rcnn; dir(rcnn); rcnn.UserError") & HEAVY


def test_importing_rcnn_leaves_the_process_as_it_was():
    program = "import os; before = dict(os.environ); import rcnn; assert dict(os.environ) == before"
    loaded_after(program)


def test_making_a_detector_needs_only_the_core_libraries():
    core = {"torch", "torchvision", "numpy", "numba", "PIL"}
    assert not loaded_after("import rcnn; rcnn.create; rcnn.load; rcnn.Detections") & (HEAVY - core)


@pytest.mark.parametrize("name", sorted(set(rcnn._ROOMS)))
def test_each_public_name_leads_to_its_room(name):
    assert getattr(rcnn, name) is getattr(importlib.import_module(rcnn._ROOMS[name]), name)


def test_the_public_names_are_listed_and_others_are_refused():
    assert set(rcnn.__all__) == {*rcnn._ROOMS, "__version__", "export"}
    assert set(rcnn.__all__) <= set(dir(rcnn))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rcnn.trian  # noqa: B018


def test_the_version_is_that_of_the_package():
    assert rcnn.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_no_dependency_has_an_upper_bound_and_none_is_forbidden():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        assert "<" not in line
        assert "==" not in line
        assert not line.lower().startswith(("albumentations", "ultralytics", "lightning", "click"))


def test_the_changelog_knows_the_version():
    assert f"## [{rcnn.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_wheel_is_pure_and_carries_every_data_file(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("this setuptools cannot build the package")
    # A copy, because setuptools writes beside what it builds.
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.nb[ic]"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, "."], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("rcnn-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "rcnn/py.typed" in inside
    assert {str(path.relative_to(copy / "src")) for path in copy.glob("src/rcnn/**/*") if path.is_file()} <= inside
