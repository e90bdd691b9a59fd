"""Files are written whole or not at all: beside their place first, then renamed over it. And where the cache is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcnn.errors import RCNNError, UserError


def cache_folder() -> Path:
    """What may be deleted at any time is kept here: $RCNN_CACHE, else $XDG_CACHE_HOME/rcnn, else ~/.cache/rcnn."""
    if own := os.environ.get("RCNN_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rcnn"


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it over `path` when the block ends well, else removes it.

    Parent folders are made. The file is flushed to disk before the rename, so a power cut leaves the old or the new
    file, never half of one.

    Raises:
        UserError: the place cannot be written to (permission, a file where a folder should be).
        RCNNError: the disk is full or fails.
    """
    path = Path(path)
    # The suffix stays last: writers such as Pillow choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with telling(path, beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            if not beside.exists():
                raise RCNNError(f"nothing was written for '{path}'")
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; errors as of `writing`."""
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def require_place(path: str | Path, *, folder: bool = False) -> None:
    """Refuses before long work what could not be written after it; makes nothing.

    Args:
        path: of a file, or of a `folder`; neither it nor the folders above it need exist.

    Raises:
        UserError: something else is there, or it may not be written.
    """
    path = Path(path)
    with telling(path):  # what may not even be looked at
        if path.exists() and path.is_dir() != folder:
            found, wanted = ("file", "folder") if folder else ("folder", "file")
            raise UserError(f"'{path}' is a {found} where a {wanted} was expected")
        above = next(place for place in (path if folder else path.parent, *path.absolute().parents) if place.exists())
    if not above.is_dir():
        raise UserError(f"'{above}' is a file where a folder was expected")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"no permission to use '{above}'; choose another folder or change its rights")


@contextmanager
def telling(path: str | Path, beside: Path | None = None) -> Iterator[None]:
    """Turns the operating system's errors about `path` into one sentence each.

    Where it is being written, `beside` is what holds it until it is whole, a name that means nothing to the user.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        if beside is not None and name.startswith(str(beside)):
            name = str(path) + name.removeprefix(str(beside))
        if beside is not None and error.errno == errno.ENOENT and Path(name) in (Path(path), *Path(path).parents):
            raise UserError(f"'{path}' cannot be written there; choose another folder") from error
        if error.errno == errno.ENOSPC:
            raise RCNNError(f"the disk is full: '{path}' was not written and nothing was left half-written") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"no permission to use '{name}'; choose another folder or change its rights") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"'{name}' is a file where a folder was expected") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"'{name}' is a folder where a file was expected") from error
        if error.errno == errno.ENOENT:
            raise UserError(f"'{name}' does not exist") from error
        raise RCNNError(f"'{name}' could not be read or written: {error.strerror or error}") from error
