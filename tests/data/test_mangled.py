"""Whatever bytes stand in an annotation file: it is read, or refused in a sentence, and never anything else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcnn.data import coco, voc, yolo
from rcnn.data.images import image_size, read_image
from rcnn.data.problems import Problem
from rcnn.errors import UserError

LIMITS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
EDITS = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=6)


def mangle(data: bytes, edits: list[tuple[int, float, bytes]]) -> bytes:
    """Bytes overwritten, inserted or cut out at random places."""
    for kind, place, new in edits:
        at = int(place * len(data))
        data = data[:at] + (new if kind < 2 else b"") + data[at + (len(new) if kind != 1 else 0) :]
    return data


def refusal(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a function returns, or the sentence with which it refuses."""
    try:
        return function(*arguments), ""
    except UserError as error:
        return None, str(error)


def read_or_refuse(reader: ModuleType, root: Path) -> None:
    """Reads a data set; problems must be sentences, and the index sound where there are none."""
    refusal(reader.files, root)
    found, sentence = refusal(reader.read, root)
    if found is None:
        assert sentence
        assert "\n" not in sentence
        return
    index, problems = found
    assert all(isinstance(problem, Problem) for problem in problems)
    if not problems and len(index):
        assert (index.boxes >= 0).all()
        assert (index.boxes <= index.sizes.max()).all()


@pytest.mark.parametrize(
    ("form", "reader", "file"),
    [
        ("voc", voc, "Annotations/a.xml"),
        ("voc", voc, "ImageSets/Main/train.txt"),
        ("coco", coco, "annotations/instances_train.json"),
        ("yolo", yolo, "data.yaml"),
        ("yolo", yolo, "labels/train/a.txt"),
        ("yolo", yolo, "rcnn.json"),
    ],
)
@LIMITS
@given(edits=EDITS)
def test_mangled_bytes_are_read_or_refused(make_once, form, reader, file, edits):
    root = make_once(form)
    sound = (root / file).read_bytes()
    try:
        (root / file).write_bytes(mangle(sound, edits))
        read_or_refuse(reader, root)
    finally:
        (root / file).write_bytes(sound)


@LIMITS
@given(place=st.floats(0, 1, exclude_max=True), value=JSON)
def test_json_with_a_foreign_value_anywhere_is_read_or_refused(make_once, place, value):
    root = make_once("coco")
    path = root / "annotations" / "instances_train.json"
    sound = path.read_text()
    content = json.loads(sound)
    slots = slots_of(content)
    holder, key = slots[int(place * len(slots))]
    holder[key] = value
    try:
        path.write_text(json.dumps(content))
        read_or_refuse(coco, root)
    finally:
        path.write_text(sound)


@LIMITS
@given(value=JSON, key=st.sampled_from(["train", "val", "names", "path", "nc"]))
def test_yaml_with_a_foreign_value_is_read_or_refused(make_once, value, key):
    root = make_once("yolo")
    path = root / "data.yaml"
    sound = path.read_text()
    try:
        path.write_text(sound + f"{key}: {json.dumps(value)}\n")
        read_or_refuse(yolo, root)
    finally:
        path.write_text(sound)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif"])
@LIMITS
@given(edits=EDITS)
def test_mangled_images_are_read_or_refused(draw_image, suffix, edits):
    with tempfile.TemporaryDirectory() as folder:
        path = draw_image(Path(folder, f"image.{suffix}"), (12, 16))
        path.write_bytes(mangle(path.read_bytes(), edits))
        for read in (read_image, image_size):
            found, sentence = refusal(read, path)
            assert found is not None or f"image.{suffix}" in sentence


def slots_of(value: Any) -> list[tuple[Any, Any]]:
    """Every place in nested lists and dictionaries, as the holder and the key."""
    slots = []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        slots += [(value, key), *slots_of(value[key])]
    return slots


@pytest.fixture(scope="module")
def make_once(tmp_path_factory: pytest.TempPathFactory, write_format: Callable[[str, Path], Path]):
    made: dict[str, Path] = {}

    def make_one(form: str) -> Path:
        if form not in made:
            made[form] = write_format(form, tmp_path_factory.mktemp(form))
        return made[form]

    return make_one
