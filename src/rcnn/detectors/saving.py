"""How what was found in an image is written: as a picture or as values, chosen by the file's suffix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from rcnn.errors import UserError
from rcnn.files import write_text, writing

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class Found(Protocol):
    """What has a picture and plain values."""

    def picture(self) -> Any:
        """A `PIL.Image`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""


def save_found(found: Found, path: str | Path, what: str) -> Path:
    """Writes the picture (.jpg, .png, .webp) or the values (.json) of `found`, whole or not at all; returns the path.

    Raises:
        UserError: another suffix, the sentence calling it `what`, or a place that cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_text(path, json.dumps(found.to_dict(), indent=1) + "\n")
    elif suffix in PICTURES:
        with writing(path) as beside:
            found.picture().save(beside, quality=92)
    else:
        raise UserError(f"cannot save {what} as '{path.name}': expected .json or one of {', '.join(PICTURES)}")
    return path
