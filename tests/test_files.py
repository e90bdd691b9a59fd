"""What cannot be written is said before the work that would be lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rcnn.cli import require_targets
from rcnn.errors import UserError
from rcnn.files import require_place


def test_places_that_can_be_written_are_left_as_they_are(tmp_path):
    (tmp_path / "there.json").write_text("old")
    require_place(tmp_path / "there.json")
    require_place(tmp_path / "new.json")
    require_place(tmp_path / "a" / "b" / "new.json")
    require_place(tmp_path / "a" / "b", folder=True)
    require_place(tmp_path, folder=True)
    require_targets("", "-", tmp_path / "new.json")
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


def test_relative_places_are_looked_at_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_place("new.json")
    require_place("a/new.json")
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="a' is a file where a folder was expected"):
        require_place("a/new.json")


def test_something_else_there_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a folder where a file was expected"):
        require_targets(tmp_path)
    with pytest.raises(UserError, match="file' is a file where a folder was expected"):
        require_place(tmp_path / "file", folder=True)
    with pytest.raises(UserError, match="file' is a file where a folder was expected"):
        require_place(tmp_path / "file" / "more" / "x.json")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match="no permission to use"):
        require_place(tmp_path / "x.json")


def test_a_place_that_may_not_be_looked_at_is_refused(tmp_path, monkeypatch):
    def exists(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", exists)
    with pytest.raises(UserError, match="no permission to use"):
        require_place(tmp_path / "x.json")
