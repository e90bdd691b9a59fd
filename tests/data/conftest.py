from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"

# One data set in every format: two classes, three images of 100×80 pixels, the last without objects; x1 y1 x2 y2.
OBJECTS = {
    "a.jpg": [("cat", (10, 20, 50, 60)), ("dog", (0, 0, 100, 80))],
    "b.jpg": [("dog", (30.5, 10.25, 60.5, 70))],
    "c.jpg": [],
}
SIZE = (80, 100)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RCNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


def write_image(path: Path, size: tuple[int, int] = SIZE, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_voc(root: Path) -> Path:
    for name, objects in OBJECTS.items():
        write_image(root / "JPEGImages" / name)
        rows = "".join(
            f"<object><name>{label}</name><difficult>{int(label == 'cat')}</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, (x1, y1, x2, y2) in objects
        )
        size = "<size><width>100</width><height>80</height><depth>3</depth></size>"
        path = root / "Annotations" / f"{name[0]}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<annotation><filename>{name}</filename>{size}{rows}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("c\n")
    return root


def coco_content(names: list[str]) -> dict:
    images = [{"id": ord(name[0]), "file_name": name, "width": 100, "height": 80} for name in names]
    annotations = [
        {
            "image_id": ord(name[0]),
            "category_id": {"cat": 7, "dog": 9}[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "ignore": int(label == "cat"),
        }
        for name in names
        for label, (x1, y1, x2, y2) in OBJECTS[name]
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = 100 + number
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def write_coco(root: Path) -> Path:
    for name in OBJECTS:
        write_image(root / "images" / name)
    (root / "annotations").mkdir()
    for split, names in {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}.items():
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_content(names)))
    return root


def write_yolo(root: Path) -> Path:
    for name, objects in OBJECTS.items():
        split = "val" if name == "c.jpg" else "train"
        write_image(root / "images" / split / name)
        if objects:
            label = root / "labels" / split / f"{name[0]}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                [("cat", "dog").index(word), (x1 + x2) / 200, (y1 + y2) / 160, (x2 - x1) / 100, (y2 - y1) / 80]
                for word, (x1, y1, x2, y2) in objects
            ]
            label.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    (root / "rcnn.json").write_text(json.dumps({"labels/train/a.txt": {"1": {"difficult": True}}}))
    return root


WRITE = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    """Makes the small data set in one of the formats: make("voc")."""

    def make_one(form: str) -> Path:
        root = tmp_path / form
        root.mkdir()
        return WRITE[form](root)

    return make_one


@pytest.fixture
def draw_image() -> Callable[..., Path]:
    return write_image


@pytest.fixture(scope="session")
def write_format() -> Callable[[str, Path], Path]:
    """Writes the small data set in a format into an empty folder."""
    return lambda form, root: WRITE[form](root)
