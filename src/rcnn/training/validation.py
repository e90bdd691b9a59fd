"""Validation: the losses on images not trained on, and the metric of what is detected in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcnn.data import Dataset
from rcnn.data.loader import eval_batches
from rcnn.detectors import Detector
from rcnn.evaluation import Prediction, evaluate
from rcnn.evaluation.detecting import LEAST_SCORE
from rcnn.proposals.regions import Regions
from rcnn.training.world import World

FIGURES = ("mAP", "AP50", "AP75")


def validate(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int,
    world: World,
    pause: Callable[[], None],
    regions: Regions | None = None,
) -> dict[str, float]:
    """`val_loss…` as means an image, and figures by COCO's protocol as fractions: `mAP`, `AP50`, `AP75`, of
    masks as well, where there are some, as `mask_mAP`, ….

    Each process takes its share of the images; all get the same figures.

    Args:
        pause: called between batches; may raise to stop.
        regions: gives the boxes of an image, for systems that take them from outside the network.
    """
    mine = world.share(len(dataset))
    judged = judge_images(model, dataset, mine, batch_size=batch_size, workers=workers, pause=pause, regions=regions)
    total: dict[str, float] = {}
    by_image: dict[int, Prediction] = {}
    for sums, found in world.gather(judged):
        by_image |= found
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + value / len(dataset)
    rows = range(len(dataset))
    truths = [dataset.truth(i) for i in rows]
    result = evaluate(truths, [by_image[i] for i in rows], dataset.classes, sizes=dataset.sizes).to_dict()
    return {
        **{f"val_{name}": value for name, value in total.items()},
        **{name: result[name] or 0.0 for name in FIGURES},
        **{f"mask_{name}": result["mask"][name] or 0.0 for name in FIGURES if "mask" in result},
    }


def judge_images(
    model: Detector,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    pause: Callable[[], None],
    regions: Regions | None = None,
) -> tuple[dict[str, float], dict[int, Prediction]]:
    """Each loss summed over the images `indices`, with the same draws every time, and what is found in each of them.

    Both come from one pass: an image is read once, and its maps are made once.
    """
    short, long = model.detection_size
    generator = torch.Generator(device=model.device).manual_seed(0)
    sums: dict[str, Tensor] = {}
    predictions: dict[int, Prediction] = {}
    batches = eval_batches(
        dataset,
        short=short,
        long=long,
        batch_size=batch_size,
        workers=workers,
        indices=indices,
        regions=regions,
        masks=model.learns_masks,
    )
    for rows, batch in batches:
        losses, found = model.judge(batch.to(model.device, non_blocking=True), generator, score=LEAST_SCORE)
        for name, value in {"loss": total_loss(losses), **losses}.items():
            sums[name] = sums.get(name, 0) + value.float() * len(rows)
        found = found.to("cpu")
        for slot, (i, size) in enumerate(zip(rows, batch.images.sizes.tolist(), strict=True)):
            predictions[i] = Prediction(*model.carried_back(found, slot, size, dataset.size(i)))
        pause()
    return {name: value.item() for name, value in sums.items()}, predictions


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """The sum [] of the scalars whose names start with `loss`, in float32."""
    return torch.stack([value.float() for name, value in losses.items() if name.startswith("loss")]).sum()
