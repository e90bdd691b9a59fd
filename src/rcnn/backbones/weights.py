"""Pretrained weights: what they expect of the pixels, where people get them, and loading with every key checked.

An entry owns channel order, range, mean and standard deviation, for published networks differ in all four and a wrong
one costs accuracy without a sign. Nothing is ever downloaded: a file lies on disk or the refusal says where people
get it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rcnn.backbones import caffemodel
from rcnn.errors import UserError, nearest
from rcnn.files import cache_folder, telling

CAFFEMODEL = ".caffemodel"
SUFFIXES = (".pth", ".pt", ".safetensors", CAFFEMODEL)
# Checkpoints often wrap the weights.
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")


@dataclass(frozen=True)
class Normalisation:
    """What weights expect of the pixels: (pixel / 255 · range − mean) / std, per channel in `order`."""

    order: Literal["RGB", "BGR"]
    range: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# The mean and deviation of ImageNet's training pictures, as torchvision's classifiers were trained.
IMAGENET_STATISTICS = Normalisation("RGB", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# ImageNet's mean colour as in the released Fast and Faster R-CNN (py-faster-rcnn, PIXEL_MEANS).
CAFFE_STATISTICS = Normalisation("BGR", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
# The same as in the released FCN.
FCN_STATISTICS = Normalisation("BGR", 255.0, (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class WeightsEntry:
    """Published weights of one network.

    Attributes:
        name: what they are called in this library (`imagenet`, `caffe`).
        files: names of the published files, first choice first.
        normalisation: what they expect of the pixels.
        body: what our prefix `body.` is in the file; head: what `head.` is.
        licence: of the file, as its publisher states it.
        source: the page that people get it from.
        layers: a layer of a .caffemodel → what it is called in a converted file, where that is not its own name.
    """

    name: str
    files: tuple[str, ...]
    normalisation: Normalisation
    body: str
    head: str
    licence: str
    source: str
    layers: Mapping[str, str] = field(default_factory=dict)

    def published(self, key: str) -> str:
        """Our state dict key under its name in the file."""
        part, rest = key.split(".", 1)
        return (self.body if part == "body" else self.head) + rest


def torchvision_entry(*files: str, body: str = "", head: str = "") -> WeightsEntry:
    """Weights in torchvision's layout, trained on ImageNet's 1,000 classes."""
    return WeightsEntry(
        "imagenet",
        files,
        IMAGENET_STATISTICS,
        body,
        head,
        "BSD-3-Clause (torchvision); ImageNet's terms of use for its pictures",
        f"https://download.pytorch.org/models/{files[0]}",
    )


def caffe_entry(
    *files: str,
    licence: str,
    source: str,
    body: str = "",
    head: str = "",
    layers: Mapping[str, str] | None = None,
) -> WeightsEntry:
    """Weights of a Caffe network: its .caffemodel, or a state dict made of it without change of value or order."""
    return WeightsEntry("caffe", files, CAFFE_STATISTICS, body, head, licence, source, layers or {})


@dataclass(frozen=True)
class Loaded:
    """What came of loading a file: its path, how many tensors were taken and which of its keys were not used."""

    path: Path
    taken: int
    unused: tuple[str, ...]


def folders() -> list[Path]:
    """Where `--weights imagenet` looks: the library's cache (RCNN_CACHE), then torch's hub folder (TORCH_HOME)."""
    return [cache_folder() / "weights", Path(torch.hub.get_dir()) / "checkpoints"]


def find(entry: WeightsEntry, backbone: str) -> Path:
    """The entry's file on disk.

    Raises:
        UserError: it is in none of the `folders`.
    """
    places = [folder / file for file in entry.files for folder in folders()]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(f"'{folder}'" for folder in folders())
    raise UserError(
        f"no pretrained weights for '{backbone}' on this disk: '{entry.files[0]}' was looked for in {looked}; "
        f"nothing is downloaded unasked, get it from {entry.source} and put it there or give its path"
    )


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by key, on the CPU; wrappers and the prefix `module.` are taken off.

    Raises:
        UserError: no such file, not a weights file, truncated, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*") if file.suffix in SUFFIXES]
        hint = nearest(path.name, siblings) if siblings else f"; a file {', '.join(SUFFIXES)} was expected"
        raise UserError(f"weights '{path}' do not exist{hint}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights '{path}' are not a file {', '.join(SUFFIXES)}")
    if path.suffix == CAFFEMODEL:
        return caffemodel.tensors(path)
    with telling(path):
        content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {}
    if isinstance(content, Mapping):
        state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise UserError(f"weights '{path}' hold no tensors by name; a state dict was expected")
    return state


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"weights '{path}' are damaged or no safetensors file: get them anew") from error


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # on pickles of other writers, which is said below if it matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "hold more than tensors and would run code" if _is_zip(path) else "are damaged or no PyTorch file"
        raise UserError(f"weights '{path}' {reason}: save a plain state dict, or get them anew") from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"weights '{path}' are damaged or no PyTorch file: get them anew") from error


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def load(
    backbone: nn.Module,
    name: str,
    path: Path,
    entry: WeightsEntry,
    others: Callable[[], Iterable[tuple[str, Mapping[str, torch.Size]]]],
) -> Loaded:
    """Copies a file's tensors into the `body` and `head` of a backbone, all of them or none.

    Args:
        backbone: has state dict keys `body.…` and `head.…`.
        name: the backbone's, for the message.
        path: the weights file.
        entry: gives each key its name in the file.
        others: published shapes of other backbones, to say which one the file fits; asked only on failure.

    Raises:
        UserError: keys are missing or have another shape; also as of `read`.
    """
    state = {_converted(key, entry): value for key, value in read(path).items()}
    ours = {entry.published(key): value for key, value in backbone.state_dict().items() if _published(key)}
    missing = [key for key in ours if key not in state]
    misfits = [key for key in ours if key in state and state[key].shape != ours[key].shape]
    if missing or misfits:
        raise UserError(_refusal(state, name, path, ours, missing, misfits) + _fits(state, name, others))
    with torch.no_grad():
        for key, value in ours.items():
            value.copy_(state[key])
    unused = (key for key in state if key not in ours and not key.endswith("num_batches_tracked"))
    return Loaded(path, len(ours), tuple(unused))


def _converted(key: str, entry: WeightsEntry) -> str:
    """A key "layer.weight" of a file as a converted one has it."""
    layer, dot, part = key.rpartition(".")
    return entry.layers.get(layer, layer) + dot + part


def _published(key: str) -> bool:
    """Whether our key stands in published files: neither the pyramid's nor a norm that we added, nor a counter."""
    return key.startswith(("body.", "head.")) and ".norm." not in key and not key.endswith("num_batches_tracked")


def _refusal(
    state: Mapping[str, Tensor],
    name: str,
    path: Path,
    ours: Mapping[str, Tensor],
    missing: list[str],
    misfits: list[str],
) -> str:
    """The sentence that says how many keys do not fit, and the first of them."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(ours)} keys are missing ({_listed(missing)})")
    if misfits:
        key = misfits[0]
        shapes = f"{key} is {list(state[key].shape)}, expected {list(ours[key].shape)}"
        parts.append(f"{len(misfits)} of {len(ours)} have another shape ({shapes})")
    return f"weights '{path}' do not fit '{name}': {' and '.join(parts)}"


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def likest(state: Mapping[str, Tensor], published: Iterable[tuple[str, Mapping[str, torch.Size]]]) -> tuple[str, float]:
    """Whose published shapes a file's tensors have most of, and which share of them; ("", 0) where none fits."""
    best, share = "", 0.0
    for name, shapes in published:
        hits = sum(key in state and state[key].shape == shape for key, shape in shapes.items())
        if hits / len(shapes) > share:
            best, share = name, hits / len(shapes)
    return best, share


def _fits(
    state: Mapping[str, Tensor], name: str, others: Callable[[], Iterable[tuple[str, Mapping[str, torch.Size]]]]
) -> str:
    """The end of the sentence: the backbone that the file fits best, if it fits one well."""
    best, share = likest(state, others())
    if best in ("", name) or share < 0.5:
        return "; no backbone of this library fits it" if share < 0.5 else ""
    return f"; it {'is' if share == 1 else 'looks like'} a file for '{best}'"
