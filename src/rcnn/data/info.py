"""What a data set holds, in figures and advice: what `rcnn data info` prints.

Sizes are in pixels of the images as they are; an object's size is the square root of its box's area. M objects, N
images, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rcnn.data.dataset import Dataset, open_dataset
from rcnn.data.semantic import BACKGROUND_NAME, VOID, VOID_NAME
from rcnn.errors import UserError

_QUANTILES = {"smallest": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "largest": 1.0}
_SEEN_BY_FPN = 16  # pixels: an object below this has too few cells on the finest level of stride 4 to be told reliably
_SEEN_BY_C4 = 32  # and below this, on the single level of stride 16
_LARGEST_SCALE = 2.5  # beyond it, magnified images cost more than they show
_FEW = 30  # objects of a class
_MOST_DETECTIONS = 100  # an image, in COCO's protocol
_MAPS = 300  # label maps that are looked at, spread over the split


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Figures of a split as plain values that JSON can carry; `advice` are sentences."""
    columns = dataset.columns()
    sides = np.sqrt(np.prod(columns["boxes"][:, 2:] - columns["boxes"][:, :2], axis=1, dtype=np.float64))  # [M]
    per_image = np.bincount(columns["image"], minlength=len(dataset))  # [N]
    summary: dict[str, Any] = {
        "data": dataset.data,
        "format": dataset.format,
        "split": dataset.split,
        "splits": {name: len(dataset.index.members[name]) for name in dataset.splits if name in dataset.index.members},
        "images": len(dataset),
        "objects": len(sides),
        "classes": _class_balance(dataset, columns),
        "image_size": _image_sizes(dataset.sizes),
        "object_size": _quantiles(sides),
        "objects_per_image": _quantiles(per_image),
        "images_without_objects": int((per_image == 0).sum()),
        "difficult": int(columns["difficult"].sum()),
        "crowd": int(columns["crowd"].sum()),
        "masks": int(dataset.masked.sum()),
        "annotated_twice": _count_twice(columns),
        "note": dataset.note,
    }
    if maps := _label_maps(dataset):
        summary["label_maps"] = maps
    return summary | {"advice": _advice(summary, dataset, per_image)}


def _class_balance(dataset: Dataset, columns: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Objects, and images that show any, of each class."""
    classes = len(dataset.classes)
    objects = np.bincount(columns["labels"], minlength=classes)
    shown = np.unique(columns["image"] * np.int64(max(classes, 1)) + columns["labels"])
    images = np.bincount(shown % max(classes, 1), minlength=classes)
    return {name: {"objects": int(objects[k]), "images": int(images[k])} for k, name in enumerate(dataset.classes)}


def _image_sizes(sizes: np.ndarray) -> dict[str, Any]:
    """Smallest, median and largest of image sizes [N, 2] by area, as (width, height), and how many differ."""
    by_area = sizes[np.argsort(sizes.prod(1, dtype=np.int64), kind="stable")]
    chosen = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {name: size[::-1].tolist() for name, size in chosen.items()} | {"distinct": len(np.unique(sizes, axis=0))}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles of values [M], rounded; none of nothing."""
    if not len(values):
        return {}
    return {name: round(float(np.quantile(values, q)), 1) for name, q in _QUANTILES.items()}


def _label_maps(dataset: Dataset) -> dict[str, Any]:
    """How many images have a label map, and the share of the pixels that each class has of some of them; {} of none."""
    try:
        mapped = open_dataset(dataset.data, dataset.split, classes=dataset.classes, semantic=True)
    except UserError:
        return {}
    counts = np.zeros(256, np.int64)
    for k in range(looked := min(len(mapped), _MAPS)):
        counts += np.bincount(mapped.label_map(k * len(mapped) // looked).ravel(), minlength=256)
    names = {name: label for label, name in enumerate(mapped.classes)}
    names |= {BACKGROUND_NAME: len(names), VOID_NAME: VOID}
    shares = {name: round(float(counts[label] / counts.sum()), 5) for name, label in names.items()}
    return {"images": len(mapped), "looked_at": looked, "share": shares}


def _count_twice(columns: dict[str, np.ndarray]) -> int:
    """Objects that repeat another's image, class and box."""
    rows = np.column_stack([columns["image"], columns["labels"], columns["boxes"]])
    return len(rows) - len(np.unique(rows, axis=0))


def _advice(summary: dict[str, Any], dataset: Dataset, per_image: np.ndarray) -> list[str]:
    """What the figures suggest doing, most important first."""
    advice = [*_advice_on_size(summary, dataset), *_advice_on_classes(summary)]
    if summary["objects"] == 0:
        learns = "only an FCN can learn from the label maps" if "label_maps" in summary else "nothing can be learned"
        return [f"There are no objects: {learns} here."]
    if summary["images"] < 300:
        advice.append(f"{summary['images']} images are few: start from pretrained weights (`--weights FILE`).")
    if summary["images_without_objects"] > summary["images"] / 2:
        advice.append(
            f"{summary['images_without_objects']} of {summary['images']} images show no object; they count as "
            "negatives, so make sure that they were annotated."
        )
    if per_image.max() > _MOST_DETECTIONS:
        busiest = int(per_image.argmax())
        advice.append(
            f"Image '{dataset.name(busiest)}' has {per_image.max()} objects, but COCO's protocol counts "
            f"{_MOST_DETECTIONS} detections an image."
        )
    if summary["annotated_twice"]:
        advice.append(f"{summary['annotated_twice']} objects are annotated twice (same class and box): remove copies.")
    ignored = summary["difficult"] + summary["crowd"]
    if ignored:
        advice.append(f"{ignored} difficult or crowd objects are neither asked for nor counted as misses.")
    return advice


def _advice_on_size(summary: dict[str, Any], dataset: Dataset) -> list[str]:
    """Which backbone and image size fit the objects."""
    if not summary["object_size"]:
        return []
    small = summary["object_size"]["5%"]
    short = float(np.median(dataset.sizes.min(1)))
    if small >= _SEEN_BY_C4:
        spare = int(short * _SEEN_BY_C4 / small / 32 + 1) * 32
        fits = f"; `--image-size {spare}` would still show them at {_SEEN_BY_C4} px" if spare < 0.75 * short else ""
        return [f"Objects of {small:g} px and more (19 of 20): any backbone sees them{fits}."]
    advice = f"One object in 20 is smaller than {small:g} px: use an FPN backbone"
    if small < _SEEN_BY_FPN:
        scale = min(_SEEN_BY_FPN / max(small, 1), _LARGEST_SCALE)
        size = int(short * scale / 32 + 1) * 32
        advice += f", `--image-size {size}` (they become {small * size / short:.0f} px)"
    return [advice + "."]


def _advice_on_classes(summary: dict[str, Any]) -> list[str]:
    """What to do about classes that are rare or never shown."""
    counts = {name: row["objects"] for name, row in summary["classes"].items()}
    advice = []
    unused = [name for name, count in counts.items() if count == 0]
    if unused and len(unused) < len(counts):
        advice.append(
            f"{len(unused)} of {len(counts)} classes have no objects here ({_some(unused)}): leave them out with "
            "`--classes`, or their AP says nothing."
        )
    rare = sorted((name for name, count in counts.items() if 0 < count < _FEW), key=lambda name: counts[name])
    if rare:
        told = [f"{name} {counts[name]}" for name in rare]
        advice.append(f"{len(rare)} classes have under {_FEW} objects ({_some(told)}): their AP is mostly chance.")
    present = [count for count in counts.values() if count]
    if present and max(present) > 20 * min(present):
        most, least = max(counts, key=lambda n: counts[n]), min((n for n in counts if counts[n]), key=counts.get)  # type: ignore[arg-type]
        ratio = counts[most] / counts[least]
        advice.append(
            f"'{most}' is {ratio:.0f} times as frequent as '{least}': read the AP of each class, not the mean."
        )
    return advice


def _some(names: list[str], most: int = 6) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
