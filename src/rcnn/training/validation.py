"""Validation: the losses on images not trained on, and the figures of what is found in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rcnn.data import Dataset
from rcnn.data.loader import eval_batches
from rcnn.detectors import Detector, Model, Segmenter
from rcnn.detectors.segmenter import labels_in
from rcnn.evaluation import Prediction, evaluate
from rcnn.evaluation.detecting import LEAST_SCORE
from rcnn.evaluation.segmentation import confusion_of, total_of
from rcnn.proposals.regions import Regions
from rcnn.training.world import World


def validate(
    model: Model[Any],
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int,
    world: World,
    pause: Callable[[], None],
    regions: Regions | None = None,
) -> dict[str, float]:
    """`val_loss…` as means an image, and the model's `figures` as fractions, by COCO's protocol or of label maps; those
    of masks as well, where there are some, as `mask_mAP`, ….

    Each process takes its share of the images; all get the same figures.

    Args:
        pause: called between batches; may raise to stop.
        regions: gives the boxes of an image, for systems that take them from outside the network.
    """
    mine = world.share(len(dataset))
    judged = judge_images(model, dataset, mine, batch_size=batch_size, workers=workers, pause=pause, regions=regions)
    total: dict[str, float] = {}
    by_image: dict[int, Any] = {}
    for sums, found in world.gather(judged):
        by_image |= found
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + value / len(dataset)
    result = judged_together(model, dataset, [by_image[i] for i in range(len(dataset))])
    return {
        **{f"val_{name}": value for name, value in total.items()},
        **{name: result[name] or 0.0 for name in model.figures},
        **{f"mask_{name}": result["mask"][name] or 0.0 for name in model.figures if "mask" in result},
    }


def judge_images(
    model: Model[Any],
    dataset: Dataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    pause: Callable[[], None],
    regions: Regions | None = None,
) -> tuple[dict[str, float], dict[int, Any]]:
    """Each loss summed over the images `indices`, with the same draws every time, and `kept` of each of them.

    Both come from one pass: an image is read once, and its maps are made once.
    """
    short, long = model.detection_size
    generator = torch.Generator(device=model.device).manual_seed(0)
    sums: dict[str, Tensor] = {}
    of_image: dict[int, Any] = {}
    batches = eval_batches(
        dataset,
        short=short,
        long=long,
        batch_size=batch_size,
        workers=workers,
        indices=indices,
        regions=regions,
        masks=model.learns_masks,
        rule=model.resize_rule,
    )
    for rows, batch in batches:
        losses, found = model.judge(batch.to(model.device, non_blocking=True), generator, score=LEAST_SCORE)
        for name, value in {"loss": total_loss(losses), **losses}.items():
            sums[name] = sums.get(name, 0) + value.float() * len(rows)
        found = found.to("cpu")
        for slot, (i, size) in enumerate(zip(rows, batch.images.sizes.tolist(), strict=True)):
            of_image[i] = kept(model, dataset, i, found, slot, size)
        pause()
    return {name: value.item() for name, value in sums.items()}, of_image


def kept(model: Model[Any], dataset: Dataset, i: int, found: Any, slot: int, size: Sequence[int]) -> Any:
    """What the judgement needs of image i: its `Prediction`, or the confusion matrix [C, C] of its label map.

    Args:
        found: what `judge` found in a batch, on the CPU; `slot`: which of its images; `size`: that one's height and
            width in the network.
    """
    if isinstance(model, Segmenter):
        labels = labels_in(found[slot], size, dataset.size(i))
        return confusion_of(dataset.label_map(i), labels, len(model.classes) + 1)
    assert isinstance(model, Detector)
    return Prediction(*model.carried_back(found, slot, size, dataset.size(i)))


def judged_together(model: Model[Any], dataset: Dataset, of_images: Sequence[Any]) -> dict[str, Any]:
    """The figures of all images by what was `kept` of each; None where there is nothing to judge."""
    if isinstance(model, Segmenter):
        return total_of(of_images, dataset.classes).to_dict()
    truths = [dataset.truth(i) for i in range(len(dataset))]
    return evaluate(truths, of_images, dataset.classes, sizes=dataset.sizes).to_dict()


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """The sum [] of the scalars whose names start with `loss`, in float32."""
    return torch.stack([value.float() for name, value in losses.items() if name.startswith("loss")]).sum()
