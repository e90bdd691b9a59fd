"""Pickled arrays read without running anything: the `.pkl` files of Detectron2's model zoo.

A pickle is a program for a stack machine, and its REDUCE calls any function of any module. Here Python's own
`pickletools` only takes the program apart; the few instructions that plain containers need are carried out below, on
plain containers. What a program calls is a name and stays one: the names with which numpy writes arrays, old and
new, are understood, whatever else is refused. Nothing is allocated by a number in the file: an array's bytes are there
already when its shape is compared with them, and nothing here walks down what is nested.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.errors import UserError
from rcnn.files import telling

# Checkpoints wrap the weights.
WRAPPERS = ("model", "state_dict")
# Booleans, integers and floats of a width that numpy has.
_NUMBERS = re.compile(r"[|<>=]?(?:b1|[iu][1248]|f[248])")


@dataclass(frozen=True)
class _Name:
    """What a program would import, as "module.name" with numpy's private package under its old name."""

    name: str


@dataclass
class _Type:
    """An array's type: numpy's code, such as "f4", and its byte order."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class _Array:
    """An array on its way: empty until its state comes."""

    value: np.ndarray | None = None


class _Refused(Exception):
    """Why the program is not carried out, as the end of a sentence."""


class _Damaged(Exception):
    """The program makes no sense."""


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a pickled mapping by key, read-only; a wrapper such as "model" is taken off.

    Raises:
        UserError: no such file, no pickle, a truncated one, or one that holds more than numbers, texts, arrays and
            containers of them.
    """
    content = load(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    items = content.items() if isinstance(content, Mapping) else ()
    found = {str(key): item.value for key, item in items if isinstance(item, _Array) and item.value is not None}
    if not found:
        raise UserError(f"'{path}' holds no arrays by name; a model's pickled weights were expected")
    return found


def load(path: Path) -> Any:
    """What is in a pickle: None, numbers, texts, bytes, lists, tuples, dicts; arrays under a type of this module.

    Raises:
        UserError: as of `arrays`.
    """
    with telling(path), open(path, "rb") as file:
        if not file.read(1):
            raise UserError(f"'{path}' is empty; a pickle was expected")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with data:
            return _Machine().run(data)
    except _Refused as error:
        raise UserError(f"'{path}' {error}; expected numbers, texts, arrays and containers of them alone") from error
    except (_Damaged, ValueError, OverflowError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged or no pickle: get it anew") from error


class _Machine:
    """The stack machine: `stack` of values, `marks` in it, `memo` of values by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: Any) -> Any:
        """Carries out the program in `data`, a file-like object; what it leaves is the result."""
        for instruction, argument, _ in pickletools.genops(data):
            name = instruction.name
            if name in _CONSTANTS:
                self.stack.append(argument if name in _WITH_ARGUMENT else _CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == "STOP":
                return self.stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise _Refused(f"uses the instruction {name}, with which a pickle makes objects")
        raise _Damaged  # pickletools says so first

    def pop(self, count: int) -> list[Any]:
        """The last `count` values, taken off."""
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise _Damaged
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_to_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def put_items(self, values: list[Any]) -> None:
        """Keys and values in turn, into the dict below them."""
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise _Damaged
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Anything else might be nested, and hashing it would walk down.
            if type(key) not in (str, int, bytes, bool):
                raise _Refused("has a key that is neither text nor number")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        """The values, to the end of the list below them."""
        if type(self.stack[-1]) is not list:
            raise _Damaged
        self.stack[-1].extend(values)

    def call(self) -> None:
        """REDUCE: what a name makes of its arguments."""
        function, arguments = self.pop(2)
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise _Damaged
        if function.name not in _CALLS:
            raise _Refused(f"would call '{function.name}' where it is unpickled")
        self.stack.append(_CALLS[function.name](*arguments))

    def build(self) -> None:
        """BUILD: the state of an array or of its type; attributes of a dict are dropped."""
        state = self.pop(1)[0]
        target = self.stack[-1]
        if isinstance(target, _Type) and type(state) is tuple:
            target.order = {"<": "<", ">": ">", "|": "=", "=": "="}[state[1]]
            if state[2] is not None or state[3] is not None:
                raise _Refused("has an array of records")
        elif isinstance(target, _Array) and type(state) is tuple:
            shape, kind, fortran, data = state[-4:]
            target.value = _filled(shape, kind, data, "F" if fortran else "C")
        elif type(target) is dict and type(state) is dict:
            pass  # what hangs on an OrderedDict, such as torch's versions of layers: nothing here asks for it
        else:
            raise _Refused("sets the state of an object")

    def name(self, module: Any, name: Any) -> None:
        """A name that would be imported; known ones alone, so that others are refused even if nothing calls them."""
        if type(module) is not str or type(name) is not str:
            raise _Damaged
        full = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if full not in _CALLS and full != "numpy.ndarray":
            raise _Refused(f"would import '{module}.{name}' where it is unpickled")
        self.stack.append(_Name(full))


def _filled(shape: Any, kind: Any, data: Any, order: str) -> np.ndarray:
    """The array of this shape and type in `data`, which it must fill."""
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin-1")
    if type(shape) is not tuple or not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
        raise _Damaged
    if not all(type(side) is int and side >= 0 for side in shape) or order not in ("C", "F") or len(shape) > 32:
        raise _Damaged
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise _Refused(f"has an array of shape {list(shape)[:8]} that its {len(data)} bytes do not fill")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _type(code: Any, *rest: Any) -> _Type:
    if type(code) is not str or not _NUMBERS.fullmatch(code):
        raise _Refused(f"has an array of the type {str(code)[:40]!r}")
    return _Type(code.lstrip("|<>="), code[0] if code[0] in "<>" else "=")


def _reconstruct(kind: Any, *rest: Any) -> _Array:
    if kind != _Name("numpy.ndarray"):
        raise _Refused("has an array of a class of its own")
    return _Array()


def _scalar(kind: Any, data: Any) -> Any:
    return _filled((), kind, data, "C").item()


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(_filled(shape, kind, data, order))


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _Damaged
    return text.encode("latin-1")


def _ordered(*items: Any) -> dict[Any, Any]:
    if items:
        raise _Damaged
    return {}


def _no_bytes(*items: Any) -> bytes:
    if items:
        raise _Damaged
    return b""


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": _type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": _ordered,
}
_WITH_ARGUMENT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(_WITH_ARGUMENT),
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.pop(3))),
    "APPEND": lambda m, _: m.extend(m.pop(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.put_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.put_items(m.pop_to_mark()),
    "DICT": lambda m, _: (values := m.pop_to_mark(), m.stack.append({}), m.put_items(values)),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    **{name: lambda m, n: m.memo.__setitem__(n, m.stack[-1]) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{name: lambda m, n: m.stack.append(m.memo[n]) for name in ("GET", "BINGET", "LONG_BINGET")},
    "GLOBAL": lambda m, text: m.name(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
