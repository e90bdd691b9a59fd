"""Settings of a detector: nested frozen dataclasses, written to and read from plain mappings.

A model file, a recipe and `--set` all speak in these mappings. Reading is strict: an unknown name or a value of another
type is refused in one sentence, so a typing error never trains a different model.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rcnn.errors import UserError, nearest

Options = TypeVar("Options")


def to_mapping(options: Any) -> dict[str, Any]:
    """The options as a nested dict of plain values (tuples become lists), fit for JSON and TOML."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(options))


def updated(options: Options, changes: Mapping[str, Any], *, path: str = "model") -> Options:
    """The options with a nested mapping of changes laid over them; `path` is how messages name the place.

    Raises:
        UserError: an unknown setting, or a value that does not fit its type.
    """
    hints = typing.get_type_hints(type(options))
    values = {}
    for name, value in changes.items():
        place = f"{path}.{name}"
        if name not in hints:
            raise UserError(f"{place} = {value!r}: unknown setting{nearest(name, hints)}")
        current = getattr(options, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(f"{place} = {value!r}: expected a table of settings, such as {place}.{_first(current)}")
            values[name] = updated(current, value, path=place)
        else:
            values[name] = _fit(value, hints[name], place)
    return dataclasses.replace(options, **values)  # type: ignore[type-var]


def _first(options: Any) -> str:
    return dataclasses.fields(options)[0].name


def _fit(value: Any, hint: Any, place: str) -> Any:
    """The value as its type hint wants it: lists become tuples, whole numbers floats; anything else must match."""
    fitted, fits = _convert(value, hint)
    if not fits:
        raise UserError(f"{place} = {value!r}: expected {_say(hint)}")
    return fitted


def _convert(value: Any, hint: Any) -> tuple[Any, bool]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and value.lower() == "none" and type(None) in arguments:
            return None, True  # TOML has no null: "none" stands for it
        tries = [_convert(value, argument) for argument in arguments]
        return next((pair for pair in tries if pair[1]), (value, False))
    if origin is typing.Literal:
        return value, value in arguments
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return value, False
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            return value, False
        parts = [_convert(item, kind) for item, kind in zip(value, kinds, strict=True)]
        return tuple(part for part, _ in parts), all(fits for _, fits in parts)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    if hint is int and isinstance(value, bool):
        return value, False
    return value, isinstance(value, hint)


def _say(hint: Any) -> str:
    """A type hint in words for a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_say(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_say(arguments[0])}"
        return f"a list of {len(arguments)}, each {_say(arguments[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "'none'"}
    return words.get(hint, str(hint))
