"""Validation: the losses on images not trained on, and the metric of what is detected in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rcnn.data import Dataset
from rcnn.data.loader import eval_batches
from rcnn.detectors import Detector, evaluating
from rcnn.evaluation import detect_in, evaluate
from rcnn.training.world import World

FIGURES = ("mAP", "AP50", "AP75")


def validate(
    model: Detector, dataset: Dataset, *, batch_size: int, workers: int, world: World, pause: Callable[[], None]
) -> dict[str, float]:
    """`val_loss…` as means an image, and figures by COCO's protocol as fractions: `mAP`, `AP50`, `AP75`.

    Each process takes its share of the images; all get the same figures.

    Args:
        pause: called between batches; may raise to stop.
    """
    mine = world.share(len(dataset))
    losses = validation_losses(model, dataset, mine, batch_size=batch_size, workers=workers, pause=pause)
    predictions = detect_in(model, dataset, mine, batch_size=batch_size, done=lambda count: pause())
    shares = world.gather((list(mine), losses, predictions))
    total: dict[str, float] = {}
    for indices, sums, _ in shares:
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + value * len(indices) / len(dataset)
    by_image = {i: prediction for indices, _, found in shares for i, prediction in zip(indices, found, strict=True)}
    rows = range(len(dataset))
    truths = [dataset.truth(i) for i in rows]
    result = evaluate(truths, [by_image[i] for i in rows], dataset.classes, sizes=dataset.sizes).to_dict()
    return {
        **{f"val_{name}": value for name, value in total.items()},
        **{name: result[name] or 0.0 for name in FIGURES},
    }


def validation_losses(
    model: Detector,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    pause: Callable[[], None],
) -> dict[str, float]:
    """The mean of each loss over the images `indices`, in evaluation mode, with the same draws every time."""
    short, long = model.options.image_size
    generator = torch.Generator(device=model.device).manual_seed(0)
    sums: dict[str, Tensor] = {}
    batches = eval_batches(dataset, short=short, long=long, batch_size=batch_size, workers=workers, indices=indices)
    with evaluating(model), torch.inference_mode(), model.autocast():
        for _, batch in batches:
            pause()
            losses = model.losses(batch.to(model.device, non_blocking=True), generator)
            for name, value in {"loss": total_loss(losses), **losses}.items():
                sums[name] = sums.get(name, 0) + value.float() * len(batch.images)
    return {name: value.item() / len(indices) for name, value in sums.items()}


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """The sum [] of the scalars whose names start with `loss`, in float32."""
    return torch.stack([value.float() for name, value in losses.items() if name.startswith("loss")]).sum()
