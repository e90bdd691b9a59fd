"""A new model that starts from a trained one, perhaps of other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rcnn.detectors.base import Model
from rcnn.detectors.options import to_mapping
from rcnn.detectors.registry import create, parse
from rcnn.detectors.storage import find, load
from rcnn.errors import UserError


def is_model(path: str | Path | None) -> bool:
    """Whether a path is that of a run or model folder."""
    if path is None or not Path(path).is_dir():
        return False
    try:
        find(path)
    except UserError:
        return False
    return True


def start_from(
    path: str | Path, system: str, classes: Sequence[str], settings: Mapping[str, Any] | None = None
) -> tuple[Model[Any], list[str]]:
    """A model with the options and weights of that in a folder.

    Args:
        path: a run or model folder.
        system: "SYSTEM/BACKBONE", which has to be that model's.
        classes: names of the K classes. Where they are not that model's, in its order, the layers whose shape depends
            on them start anew.
        settings: changes to that model's options.

    Returns:
        The model, and the names of its tensors that start anew.

    Raises:
        UserError: another system; as of `load` and `create`.
    """
    trained = load(path, device="cpu")
    named = f"{system.partition('/')[0]}/{parse(system)[1]}"
    if named != trained.system:
        raise UserError(f"'{path}' holds a {trained.system}, so a {named} cannot start from it")
    options = to_mapping(trained.options)
    model = create(system, classes, settings=_over(options, settings or {}))
    source, own = trained.state_dict(), model.state_dict()
    # The output of one class says nothing of another that stands in its place.
    with torch.device("meta"):
        others = create(system, [*trained.classes, ""], settings=options).state_dict()
    by_class = {key for key, value in source.items() if key in others and others[key].shape != value.shape}
    same = model.classes == trained.classes
    taken = {key for key, value in own.items() if key in source and source[key].shape == value.shape}
    taken -= set() if same else by_class
    with torch.no_grad():
        for key in taken:
            own[key].copy_(source[key])
    return model, sorted(own.keys() - taken)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over others."""
    both = {
        key: _over(below[key], value) for key, value in above.items() if isinstance(value, Mapping) and key in below
    }
    return {**below, **above, **both}
