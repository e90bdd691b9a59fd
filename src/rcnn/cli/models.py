"""`rcnn models`: what can be named in `rcnn train SYSTEM/BACKBONE`, from the registries themselves."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Any

import typer

from rcnn import cli
from rcnn.errors import UserError, nearest

WIDTH = 120  # characters, enough for the longest row


def command(
    pattern: Annotated[str, typer.Argument(help="A name, a part of one, or a pattern such as 'resnet*-fpn'.")] = "*",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Systems with their recipes and training schemes, backbones with their parameters and weights.

    Any backbone that fits a system may be named with it, as in `rcnn train faster-rcnn/resnet18-fpn`. Parameters are
    those of the backbone with its pyramid or RoI head. Weights are never downloaded: the table says which file
    `--weights imagenet` looks for.
    """
    systems = [system for system in _systems() if _matches(system["name"], pattern)]
    backbones = _backbones(pattern)
    if not systems and not backbones:
        from rcnn.backbones import names

        known = [*names(), *(system["name"] for system in _systems())]
        raise UserError(f"no system or backbone matches '{pattern}'{nearest(pattern, known, listed=len(known))}")
    if json:
        cli.write_json("-", {"systems": systems, "backbones": backbones})
        return
    if systems:
        _print_table("system", systems, ("title", "paper", "recipes", "schemes", "form"))
    if backbones:
        _print_table("backbone", backbones, ("strides", "parameters", "published with", "weights"))


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*")


def _systems() -> list[dict[str, Any]]:
    """One entry a system."""
    from rcnn.detectors import SYSTEMS
    from rcnn.training.schemes import SCHEMES

    return [
        {
            "name": name,
            "title": system.title,
            "paper": system.paper,
            "recipes": list(system.presets),
            "schemes": list(SCHEMES.get(name, ())),
            "form": system.form,
        }
        for name, system in SYSTEMS.items()
    ]


def _backbones(pattern: str) -> list[dict[str, Any]]:
    """One entry a backbone whose name matches."""
    from rcnn import backbones

    entries = [backbones.entry(name) for name in backbones.names() if _matches(name, pattern)]
    return [
        {
            "name": entry.name,
            "form": entry.form,
            "strides": list(entry.strides),
            "parameters": entry.parameters,
            "published with": list(entry.systems),
            "weights": [
                {"name": w.name, "files": list(w.files), "licence": w.licence, "source": w.source}
                for w in entry.weights
            ],
        }
        for entry in entries
    ]


def _print_table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right" if column == "parameters" else "left", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], *(_cell(column, row[column]) for column in columns))
    console = cli.console()
    console.width = max(console.width, WIDTH)  # file names are for copying: never cut
    console.print(table)


def _cell(column: str, value: Any) -> str:
    """A value in few words: parameters in millions, the finest and coarsest stride, the file that is looked for."""
    if column == "parameters":
        return f"{value / 1e6:.1f} M"
    if column == "strides":
        return "–".join(str(stride) for stride in dict.fromkeys((value[0], value[-1])))
    if column == "weights":
        return value[0]["files"][0]
    return ", ".join(value) if isinstance(value, list) else value
