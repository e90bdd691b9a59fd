"""Models on disk: a folder of `model.safetensors` (every tensor) and `model.json` (system, classes, settings).

Nothing in it is executed when it is read, and every key and shape is checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rcnn.backbones.norm import uncounted
from rcnn.detectors.base import Model, Precision
from rcnn.detectors.options import to_mapping
from rcnn.detectors.registry import create
from rcnn.errors import UserError, nearest
from rcnn.files import write_text, writing

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save(model: Model[Any], folder: str | Path, *, about: dict[str, Any] | None = None) -> Path:
    """Writes the model folder; each file is whole or absent. `about` (figures, date, recipe) goes into `model.json`."""
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with writing(folder / WEIGHTS) as beside:
        save_file(tensors, beside)
    description = {
        "format": FORMAT,
        "system": model.system,
        "classes": list(model.classes),
        "options": to_mapping(model.options),
        "about": about or {},
        **({} if model.category_ids is None else {"category_ids": model.category_ids}),
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return folder


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> Model[Any]:
    """The model of a run folder (its best) or a model folder, in evaluation mode.

    Args:
        path: the folder.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 on GPUs that have it, else fp32), "fp32" or "bf16".

    Raises:
        UserError: no model there, or one that is damaged or does not fit its description.
    """
    folder = find(path)
    chosen = choose_device(device)
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        system, classes, options = (description[key] for key in ("system", "classes", "options"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{folder / DESCRIPTION}' is not a model description: {_first_line(error)}") from error
    if description.get("format") != FORMAT:
        raise UserError(f"'{folder}' has model format {description.get('format')!r}; this version reads {FORMAT}")
    model = create(system, classes, weights=None, settings=options)
    model.category_ids = _category_ids(description.get("category_ids"), folder, model)
    _fill(model, folder / WEIGHTS)
    if precision not in get_args(Precision):
        raise UserError(f"unknown precision '{precision}'{nearest(precision, get_args(Precision))}")
    model.precision = cast(Precision, precision)
    return model.eval().to(chosen)


def find(path: str | Path) -> Path:
    """The model folder that `path` means: itself, or the `best/` or else `last/` of a run folder."""
    path = Path(path)
    for folder in (path, path / "best", path / "last"):
        if (folder / WEIGHTS).is_file() and (folder / DESCRIPTION).is_file():
            return folder
    if path.name in (WEIGHTS, DESCRIPTION) and path.is_file():
        return find(path.parent)
    if not path.exists():
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        siblings = [p.name for p in beside if any((p / part / WEIGHTS).is_file() for part in ("", "best", "last"))]
        raise UserError(f"model '{path}' does not exist{nearest(path.name, siblings) if siblings else ''}")
    raise UserError(f"'{path}' holds no model: expected {WEIGHTS} and {DESCRIPTION}, or a run folder with best/")


def choose_device(name: str) -> torch.device:
    """The device of "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps"; refuses what is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device '{name}'{nearest(name, ('auto', 'cpu', 'cuda', 'mps'))}") from error
    there = {"cpu": True, "cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(device.type, False):
        usable = [kind for kind, found in there.items() if found]
        raise UserError(f"device '{name}' is not available here; usable are auto, {', '.join(usable)}")
    return device


def _category_ids(ids: Any, folder: Path, model: Model[Any]) -> tuple[int, ...] | None:
    """The whole numbers, one a class, that the description gives; None where it gives none."""
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != len(model.classes) or not all(isinstance(key, int) for key in ids):
        raise UserError(f"'{folder / DESCRIPTION}': category_ids = {ids!r}: expected a whole number for each class")
    return tuple(ids)


def _fill(model: Model[Any], file: Path) -> None:
    """Loads every tensor of the file into the model; names and shapes must agree exactly."""
    own = model.state_dict()
    try:
        with safe_open(file, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        wrong = sorted((set(own) ^ set(shapes)) - uncounted(model)) + [
            name for name in own if name in shapes and tuple(own[name].shape) != shapes[name]
        ]
        if wrong:
            raise UserError(f"'{file}' does not fit its {DESCRIPTION}: {len(wrong)} tensors differ, first '{wrong[0]}'")
        model.load_state_dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"'{file}' is damaged: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
