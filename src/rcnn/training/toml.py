"""Writing of settings as TOML; Python itself only reads it. TOML has no null: the word "none" stands for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
NOTHING = "none"


def dumps(table: Mapping[str, Any]) -> str:
    """TOML text of a mapping of strings, numbers, booleans, None, lists of these, and further mappings.

    A list that holds mappings only becomes an array of tables (`[[stages]]`). `tomllib.loads` gives the same back, with
    tuples as lists and None as "none".
    """
    lines: list[str] = []
    _write_table(table, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    """Appends the lines of one table: its plain values first, as TOML asks, then its inner tables."""
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_array_of_tables(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _write_table(value, (*path, key), lines)
        elif _is_array_of_tables(value):
            for entry in value:
                lines += ["", f"[[{name}]]"]
                _write_table(entry, (*path, key), lines)


def _is_array_of_tables(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and len(value) > 0 and all(isinstance(entry, Mapping) for entry in value)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's too, but TOML also wants the delete character escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if value is None:
        return _string(NOTHING)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    raise TypeError(f"{type(value).__name__} has no form in TOML")
