"""Settings of the process follow the cores that it really has."""

from __future__ import annotations

import os
import sys

import pytest

from rcnn import process


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("max 100000\n", sys.maxsize), ("", sys.maxsize)],
)
def test_a_containers_quota_is_read_and_rounded_up(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert process._quota(tmp_path / "cpu.max") == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert process._quota(tmp_path / "none") == sys.maxsize


@pytest.mark.parametrize(("affinity", "quota", "cores"), [(8, 2, 2), (2, 8, 2), (4, sys.maxsize, 4), (8, 0, 1)])
def test_cores_are_the_lesser_of_affinity_and_quota(monkeypatch, affinity, quota, cores):
    monkeypatch.setattr(process, "_affinity", lambda: affinity)
    monkeypatch.setattr(process, "_quota", lambda: quota)
    assert process.cpus() == cores


@pytest.mark.parametrize(
    ("affinity", "quota", "set_before", "threads"),
    [(8, 2, None, "2"), (8, 2, "5", "5"), (8, sys.maxsize, None, None)],
)
def test_threads_are_limited_under_a_quota_only_and_never_against_the_users_word(
    monkeypatch, affinity, quota, set_before, threads
):
    monkeypatch.setattr(process, "_affinity", lambda: affinity)
    monkeypatch.setattr(process, "_quota", lambda: quota)
    monkeypatch.setattr(os, "environ", {} if set_before is None else {"OMP_NUM_THREADS": set_before})
    process.tune_process()
    assert os.environ.get("OMP_NUM_THREADS") == threads
