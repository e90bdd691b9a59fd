"""What the pages name exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rcnn import cli
from rcnn.detectors import to_mapping
from rcnn.detectors.registry import SYSTEMS
from rcnn.training import reading
from rcnn.training.presets import AUGMENTATIONS, presets
from rcnn.training.recipe import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_calls_exists(page):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    called = {line.split()[1] for block in blocks for line in block.splitlines() if line.startswith("rcnn ")}
    assert called <= set(cli.COMMANDS)


def test_every_target_that_a_page_makes_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


MAP, PYRAMID = (16,), (4, 8, 16, 32, 64)
ROW = re.compile(r"^\| `((?:model|train|augment)\.[a-zA-Z_.]+)` \| (.*?) \| (.*?) \|", re.MULTILINE)


def page_of(system):
    """A system's page; FCN's three share one."""
    return ROOT / "docs" / f"{'fcn' if system.startswith('fcn-') else system}.md"


SYSTEM_PAGES = [name for name in SYSTEMS if page_of(name).exists()]


def settings_of(system, recipe, strides):
    """Every setting's value in a recipe by its dotted key."""
    train = to_mapping(TrainSettings())
    for layer in presets(f"{system}/resnet18", recipe, "", ""):
        train |= layer.get("train", {})
    model = to_mapping(SYSTEMS[system].presets[recipe](strides))
    values = reading.flat({"model": model, "train": train, "augment": to_mapping(AUGMENTATIONS[recipe])})
    return {key: "none" if value is None else value for key, value in values.items()}


def read_value(text):
    """A value as the tables write it: TOML, a bare word or a fraction."""
    if fraction := re.fullmatch(r"(\d+)/(\d+)", text):
        return int(fraction[1]) / int(fraction[2])
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def rows_of(system):
    """Key → recipe → the values that the page states for a single map and for a pyramid."""
    rows = {}
    for key, *cells in ROW.findall(page_of(system).read_text(encoding="utf-8")):
        assert key not in rows, f"{key} stands there twice"
        values = [re.findall(r"`(.*?)`", cell) for cell in cells]
        rows[key] = {
            recipe: (read_value(found[0]), read_value(found[-1]))
            for recipe, found in zip(("classic", "modern"), values, strict=True)
        }
    return rows


@pytest.mark.parametrize("system", SYSTEM_PAGES)
def test_the_tables_state_what_the_recipes_set(system):
    wrong = []
    for key, recipes in rows_of(system).items():
        for recipe, stated in recipes.items():
            for strides, value in zip((MAP, PYRAMID), stated, strict=True):
                known = settings_of(system, recipe, strides)
                if key not in known:
                    wrong.append(f"{key}: there is no such setting")
                elif value != known[key]:
                    wrong.append(f"{key}: {recipe} has {known[key]!r} on {len(strides)} maps, the page says {value!r}")
    assert wrong == []


@pytest.mark.parametrize("system", SYSTEM_PAGES)
def test_a_page_that_promises_every_option_has_it(system):
    promise = re.search("^## Every option( of the model)?$", page_of(system).read_text("utf-8"), re.M)
    if promise is None:
        pytest.skip("it promises none")
    promised = {key for key in settings_of(system, "modern", PYRAMID) if not promise[1] or key.startswith("model.")}
    assert sorted(promised - set(rows_of(system))) == []
