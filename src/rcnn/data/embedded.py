"""The embedded digits as an index over images in memory, in the same form as data sets on disk."""

from __future__ import annotations

import numpy as np

from rcnn.data import digits
from rcnn.data.index import Index, IndexBuilder
from rcnn.data.segments import run_lengths


def read_digits(split: str | None) -> tuple[Index, list[np.ndarray]]:
    """The index of `digits` and its images uint8 [H, W, 3]; only the split asked for (None: all) is made."""
    builder = IndexBuilder(digits.CLASSES)
    arrays: list[np.ndarray] = []
    for name in digits.SPLITS:
        rows = builder.members[name] = []
        if split not in digits.SPLITS or split == name:
            made = digits.generate(name)
            arrays += list(made.images)
            for i, image in enumerate(made.images):
                file = f"{name}_{i:03}.png"
                rows.append(builder.image(file, "", image.shape[:2], file))
                _add_objects(builder, made.boxes[i], made.labels[i], made.instances[i])
    return builder.build(), arrays


def digits_maps(split: str | None) -> list[np.ndarray]:
    """The label maps of the images that `read_digits` gives, int16 [H, W]: a digit's class, −1 for background."""
    made = [digits.generate(name) for name in digits.SPLITS if split not in digits.SPLITS or split == name]
    return [values.astype(np.int16) - 1 for part in made for values in part.semantic]


def _add_objects(builder: IndexBuilder, boxes: np.ndarray, labels: np.ndarray, instances: np.ndarray) -> None:
    """Adds one image's digits: boxes [G, 4], labels [G], instances [H, W] with k + 1 where digit k is seen."""
    for k, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        builder.object(box, label, f"digit {k}", segment=run_lengths(instances == k + 1))
