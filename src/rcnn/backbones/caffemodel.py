"""Caffe's `.caffemodel` files: the weights of each layer by its name, without Caffe.

Field numbers are those of caffe.proto (BVLC/caffe, src/caffe/proto). A network is a list of layers in one of two forms,
`layer` and the older `layers`; a layer has a name and blobs; a blob has numbers, and a shape or four older dimensions.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcnn.backbones import protobuf
from rcnn.backbones.protobuf import BYTES, VARINT, Damaged
from rcnn.errors import UserError
from rcnn.files import telling

# NetParameter: field → the numbers of a layer's name and blobs in that form of a layer.
_LAYERS = {100: (1, 7), 2: (4, 6)}
# BlobProto.
_OLD_SHAPE, _DATA, _SHAPE, _DOUBLES = (1, 2, 3, 4), 5, 7, 8
# No blob of Caffe has more axes.
_MOST_AXES = 32


@dataclass
class Blob:
    """An array in a file.

    Attributes:
        shape: of which the leading ones of an old file are left out.
        parts: its numbers' bytes in order, most often where they lie in the file.
        double: whether they are float64, else float32.
    """

    shape: tuple[int, ...] = ()
    parts: list[memoryview | bytearray] = field(default_factory=list)
    double: bool = False

    def tensor(self) -> Tensor:
        """A copy of it in float32."""
        kind = "<f8" if self.double else "<f4"
        numbers = np.concatenate([np.frombuffer(part, kind) for part in self.parts] or [np.empty(0)])
        return torch.from_numpy(numbers.astype("float32", copy=False)).view(self.shape)


def read(path: Path) -> dict[str, list[Blob]]:
    """The blobs of each layer that has any, by the layer's name; nothing is copied yet.

    Raises:
        UserError: no such file, no caffemodel, a truncated one, or a blob whose numbers do not fill its shape.
    """
    with telling(path), open(path, "rb") as file:
        if not file.read(1):
            raise UserError(f"'{path}' is empty; a caffemodel was expected")
        # Kept open by the blobs that point into it.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        layers = _layers(path, data)
    except (Damaged, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is damaged or no caffemodel: get it anew") from error
    if not layers:
        raise UserError(f"'{path}' holds no layer with weights; a caffemodel was expected")
    return layers


def tensors(path: Path) -> dict[str, Tensor]:
    """The weights of convolutions and fully connected layers by key: "conv1.weight", "conv1.bias".

    Raises:
        UserError: as of `read`.
    """
    return {
        f"{name}.{part}": blob.tensor()
        for name, blobs in read(path).items()
        for part, blob in zip(("weight", "bias"), blobs, strict=False)
        if len(blobs) <= 2
    }


def _layers(path: Path, net: memoryview) -> dict[str, list[Blob]]:
    layers: dict[str, list[Blob]] = {}
    for number, kind, value in protobuf.fields(net):
        if number not in _LAYERS or kind != BYTES:
            continue
        assert isinstance(value, memoryview)
        name, blobs = _layer(value, *_LAYERS[number])
        if blobs and name in layers:
            raise UserError(f"'{path}' has two layers '{name}' with weights")
        if blobs:
            layers[name] = [_blob(path, name, blob) for blob in blobs]
    return layers


def _layer(layer: memoryview, name_field: int, blob_field: int) -> tuple[str, list[memoryview]]:
    """A layer's name and its blobs as they stand."""
    name, blobs = "", []
    for number, kind, value in protobuf.fields(layer):
        if kind == BYTES and isinstance(value, memoryview):
            if number == name_field:
                name = str(value, "utf-8")
            elif number == blob_field:
                blobs.append(value)
    return name, blobs


def _blob(path: Path, name: str, message: memoryview) -> Blob:
    """A layer's blob, its numbers counted against its shape."""
    shape, old = None, dict.fromkeys(_OLD_SHAPE, 0)
    parts: dict[int, list[memoryview | bytearray]] = {_DATA: [], _DOUBLES: []}
    for number, kind, value in protobuf.fields(message):
        if number in old and isinstance(value, int):
            old[number] = value
        elif number == _SHAPE and isinstance(value, memoryview):
            shape = (shape or []) + _dimensions(value)
        elif number in parts and isinstance(value, memoryview):
            several = parts[number]
            if kind == BYTES:
                several.append(value)
            elif several and isinstance(several[-1], bytearray):
                several[-1] += value  # numbers that come one by one
            else:
                several.append(bytearray(value))
    double = bool(parts[_DOUBLES])
    blob = Blob(parts=parts[_DOUBLES] or parts[_DATA], double=double)
    sides = list(old.values()) if shape is None else shape
    width, there = 8 if double else 4, sum(len(part) for part in blob.parts)
    if any(len(part) % width for part in blob.parts) or len(sides) > _MOST_AXES or math.prod(sides) * width != there:
        said = "×".join(map(str, sides[:8]))
        raise UserError(f"'{path}' has a layer '{name}' of {said} numbers in {there} bytes: it is damaged, get it anew")
    while shape is None and len(sides) > 1 and sides[0] == 1:  # fully connected layers and biases
        sides = sides[1:]
    blob.shape = tuple(sides)
    return blob


def _dimensions(message: memoryview) -> list[int]:
    """The sides of a BlobShape."""
    if len(message) > 12 * _MOST_AXES:
        raise Damaged("a shape has more axes than a blob may have")
    sides: list[int] = []
    for number, kind, value in protobuf.fields(message):
        if number == 1:
            sides += [value] if kind == VARINT and isinstance(value, int) else protobuf.varints(memoryview(value))  # type: ignore[arg-type]
    return sides
