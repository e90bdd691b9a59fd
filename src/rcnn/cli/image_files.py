"""The image files that a command is given, and the pictures that it draws of them."""

from __future__ import annotations

from pathlib import Path

from rcnn.errors import UserError


def image_files(given: list[Path]) -> list[Path]:
    """The images themselves, folders opened."""
    from rcnn.data.folders import images_below

    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = images_below(str(path))
            if not inside:
                raise UserError(f"folder '{path}' holds no images")
            files += [path / name for name in inside]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"image '{path}' does not exist")
    return files


def keep_originals(files: list[Path], pictures: list[Path]) -> None:
    """Refuses to draw a picture over an image that was given."""
    originals = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in originals:
            raise UserError(f"the picture '{picture}' would overwrite an image; choose another folder with --out")


def picture_names(files: list[Path]) -> list[str]:
    """A picture's name for each image: its own, numbered where two are alike; formats we do not write become PNG."""
    from rcnn.detectors.saving import PICTURES

    taken: set[str] = set()
    names = []
    for file in files:
        suffix = file.suffix.lower() if file.suffix.lower() in PICTURES else ".png"
        name, number = f"{file.stem}{suffix}", 2
        while name in taken:
            name, number = f"{file.stem}-{number}{suffix}", number + 1
        taken.add(name)
        names.append(name)
    return names
