"""`rcnn doctor` finds what does not fit and says the fix."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from rcnn import cli
from rcnn.cli import doctor

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("form", "state"), [("rcnn.kernels.cuda", "ok"), ("rcnn.kernels.torchvision_ops", "note")])
def test_it_says_which_kernels_run_on_a_gpu(monkeypatch, form, state):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("rcnn.kernels.form", lambda device: types.ModuleType(form))
    (finding,) = [found for found in doctor.accelerators() if found.name == "GPU kernels"]
    assert finding.state == state


def test_a_good_installation_is_usable_and_every_finding_has_a_name_and_a_value(tmp_path, capsys):
    assert cli.main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    assert capsys.readouterr().out.endswith("rcnn can be used here.\n")
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["usable"] is True
    names = [finding["name"] for finding in report["findings"]]
    assert {"rcnn", "Python", "torch", "torch + torchvision", "CPU", "threads", "disk", "evaluation"} <= set(names)
    for finding in report["findings"]:
        assert finding["name"]
        assert finding["value"]
        assert finding["state"] in ("ok", "note", "broken")
        assert (finding["state"] == "ok") == (finding["fix"] == "")


def test_json_on_standard_output_is_json_and_nothing_else(capsys):
    cli.main(["doctor", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["usable"] is True


def test_what_is_needed_is_what_the_package_depends_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[>=<]", line)[0] for line in project["dependencies"]] == list(doctor.NEEDED_FOR)


def test_a_torchvision_of_another_build_is_named_with_the_fix_and_exit_1(monkeypatch, capsys):
    def mismatched(name: str):
        raise RuntimeError("operator torchvision::nms does not exist\nmore lines")

    broken = types.ModuleType("torchvision")
    broken.__getattr__ = mismatched
    monkeypatch.setitem(sys.modules, "torchvision", broken)
    (finding,) = doctor.pair()
    assert finding.state == "broken"
    assert finding.value.endswith("operator torchvision::nms does not exist")
    assert "pip install torch torchvision" in finding.fix
    assert cli.main(["doctor"]) == 1
    assert "rcnn cannot be used here yet: see torch + torchvision." in capsys.readouterr().out


def test_a_torch_that_does_not_load_leaves_the_other_checks_running(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["torch + torchvision"].state == "broken"
    assert found["disk"].state == "ok"
    assert found["accelerators"].state == "note"  # the check that could not be made


def test_a_missing_library_is_named_with_its_purpose(monkeypatch):
    monkeypatch.setitem(doctor.NEEDED_FOR, "no-such-library", "a test")
    (finding,) = (finding for finding in doctor.libraries() if finding.name == "no-such-library")
    assert (finding.state, finding.value) == ("broken", "missing; it is needed for a test")


def test_an_old_library_is_broken_and_a_newer_one_is_not(monkeypatch):
    monkeypatch.setattr(doctor, "_floors", lambda: {"numpy": "999.1", "pillow": "0.1"})
    found = {finding.name: finding for finding in doctor.libraries()}
    assert found["numpy"].state == "broken"
    assert "older than 999.1" in found["numpy"].value
    assert found["pillow"].state == "ok"


@pytest.mark.parametrize(("version", "release"), [("2.15.0+cpu", (2, 15)), ("3.0rc1", (3, 0)), ("7", (7,))])
def test_versions_are_compared_by_major_and_minor(version, release):
    assert doctor._release(version) == release


def test_a_kernel_cache_that_cannot_be_written_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_is_writable", lambda folder: False)
    (finding,) = doctor.kernels()
    assert finding.state == "note"
    assert "NUMBA_CACHE_DIR" in finding.fix


def test_no_compiler_is_only_a_note(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (finding,) = doctor.compiler()
    assert (finding.state, finding.fix) == ("note", "sudo apt install g++")


def test_more_threads_than_cores_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "cpus", lambda: 0)
    states = {finding.name: finding for finding in doctor.compute()}
    assert states["threads"].state == "note"


def test_a_folder_counts_as_writable_by_its_nearest_existing_parent(tmp_path):
    assert doctor._is_writable(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert not doctor._is_writable(tmp_path / "not")
    assert not doctor._is_writable(Path("/proc/1"))


def test_memory_is_read_as_bytes(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:    2000 kB\n")
    assert doctor._available_memory(tmp_path / "meminfo") == 2_048_000
    assert doctor._available_memory(tmp_path / "none") is None
