"""Finding files in large folders without asking the disk once per file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from rcnn.data.images import is_image
from rcnn.errors import UserError


class Folders:
    """Listings of folders, each read once."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Names of the entries of a folder; none where it cannot be read."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def has(self, path: Path) -> bool:
        """Whether a path exists."""
        return path.name in self.names(path.parent)


def images_below(folder: str) -> list[str]:
    """Sorted paths, from `folder` on, of all image files in it and its sub-folders; hidden ones are passed over."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = "" if parent == folder else os.path.relpath(parent, folder).replace(os.sep, "/") + "/"
        found += [below + name for name in names if is_image(name) and not name.startswith(".")]
    return sorted(found)


def require_exists(path: Path) -> None:
    """Raises a `UserError` that suggests the nearest path where `path` does not exist."""
    if path.exists():
        return
    parents = [parent for parent in path.parents if parent.exists()]
    parent = parents[0] if parents else Path()
    missing, *rest = path.parts[len(parent.parts) :]
    names = sorted(name for name in Folders().names(parent) if not name.startswith("."))
    own = ["digits"] * (len(path.parts) == 1)  # which comes with the library
    close = [parent / name for name in difflib.get_close_matches(missing, names + own, n=5)]
    better = next((one.joinpath(*rest) for one in close if one.joinpath(*rest).exists()), close[0] if close else None)
    if better is not None:
        hint = f"did you mean '{better}'?"
    else:
        hint = f"'{parent}' holds {', '.join(names[:12]) or 'nothing'}{', …' if len(names) > 12 else ''}"
    raise UserError(f"data '{path}' does not exist; {hint}")


def unrecognised(path: Path) -> str:
    """The sentence for a path that is no data set, with what was looked for."""
    return (
        f"data '{path}' is none of: a VOC root (a folder with Annotations, JPEGImages, ImageSets/Main), a COCO folder "
        "(annotations/*.json, or a JSON beside its images), a YOLO data.yaml, label maps (a folder with images, masks "
        "and classes.txt), or 'digits'"
    )


def relative(path: Path, root: Path) -> str:
    """A path from `root` on with forward slashes, or absolute where it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()
