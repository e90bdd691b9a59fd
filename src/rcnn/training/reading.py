"""Where settings come from: configuration files and `key=value` words, as nested mappings that are checked later."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.errors import UserError
from rcnn.files import telling

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def read_config(path: str | Path) -> dict[str, Any]:
    """The nested settings of a TOML or YAML file.

    Raises:
        UserError: it is missing, neither TOML nor YAML by its name, broken, or not a table of settings.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise UserError(f"'{path}' is no configuration file; expected a name that ends in .toml, .yaml or .yml")
    with telling(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"'{path}' is not valid TOML: {error}") from error
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no settings; expected lines such as `train: {{epochs: 3}}`")
    return _with_exponents(values)


def _with_exponents(value: Any) -> Any:
    """YAML 1.1 reads `1e-4`, which has no point, as a text; here it is the number that was meant."""
    if isinstance(value, dict):
        return {str(key): _with_exponents(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_exponents(item) for item in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def parse_assignment(text: str) -> dict[str, Any]:
    """`"model.rpn.nms=0.6"` → `{"model": {"rpn": {"nms": 0.6}}}`; the value is TOML, and a bare word is a text.

    Raises:
        UserError: no `key=value`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key=value, such as train.lr=0.01")
    for written in (value, json.dumps(value.strip())):
        try:
            return tomllib.loads(f"{key} = {written}")
        except tomllib.TOMLDecodeError:
            continue
    raise UserError(f"--set {text}: '{key}' is no dotted name, such as train.lr")


def nested(key: str, value: Any) -> dict[str, Any]:
    """`"train.lr", 0.1` → `{"train": {"lr": 0.1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings merge, anything else replaces."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key: `{"train": {"lr": 0.1}}` → `{"train.lr": 0.1}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
