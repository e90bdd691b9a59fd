"""What is said before training: the classes, the data, the stages, and what they will cost, measured by one step."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from rcnn.data import Dataset
from rcnn.detectors import Detector
from rcnn.structures import Batch
from rcnn.training.progress import duration
from rcnn.training.recipe import Recipe, StageRecord
from rcnn.training.schedule import scaled_lr
from rcnn.training.stages import Learn, Stage, release
from rcnn.training.validation import total_loss

# The quickest of so many passes counts. The first ones compile kernels, so there are two at least; no third is begun
# after so many seconds.
PASSES, LONGEST = 3, 10.0
# An evaluated image passes forward once and a bit, for losses and detections; a trained one costs three such passes.
EVALUATION_COST = 0.4
GIGA = 2**30


@dataclass(frozen=True)
class Cost:
    """What one forward and backward pass took.

    Attributes:
        seconds: its time.
        memory: bytes at the most, the optimiser's momentum included: on the GPU if there is one, else of the process.
        loss: its loss.
    """

    seconds: float
    memory: int
    loss: float


def try_step(model: Detector, batch: Batch, stage: Learn) -> Cost:
    """Passes over `batch` forward and back a few times as `stage` does, and leaves the model as it was.

    Raises:
        UserError: the stage has nothing to train.
    """
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    else:
        _forget_peak()
    release(model, stage, trainable)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < PASSES and sum(seconds) < LONGEST):
        began = time.perf_counter()
        generator = torch.Generator(device=model.device).manual_seed(0)
        loss = 0.0
        for part in stage.parts:
            with model.autocast():
                losses = model(batch.to(model.device), generator, part)
            total = total_loss(losses)
            total.backward()
            loss += total.item()
        model.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    momentum = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return Cost(min(seconds), momentum + (torch.cuda.max_memory_allocated(model.device) if on_gpu else _peak()), loss)


def _forget_peak() -> None:
    """Lets `_peak` begin anew where the system can (Linux, see proc(5)); elsewhere earlier work counts too."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory in bytes that the process has held; 0 where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(model: Detector, recipe: Recipe, train: Dataset, val: Dataset, images_per_step: int) -> list[str]:
    """The lines about classes, data, model, stages and learning rate."""
    settings = recipe.train
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    short, long = model.options.image_size
    lines = [
        f"{recipe.system} · recipe {recipe.recipe} · weights {recipe.weights or 'none (random start)'}"
        f" · {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them train · {model.device}",
        f"{len(model.classes)} classes: {', '.join(model.classes)}",
        f"data {recipe.data.path}: {len(train)} images to train on ({train.split}), {len(val)} to validate on"
        f" ({val.split}); shorter side {short} px, longer at most {long}",
        *dict.fromkeys(note for note in (train.note, val.note) if note),
        *model.advice(train.sizes),
    ]
    lr = scaled_lr(settings.lr, settings.lr_batch, images_per_step)
    origin = f"{settings.lr:g} for {settings.lr_batch} images, scaled linearly" if settings.lr_batch else "as given"
    lines.append(f"learning rate {lr:g} ({origin}) for {images_per_step} images a step, {settings.schedule} schedule")
    return [*lines, *stages_table(recipe.stages)]


def stages_table(stages: Sequence[StageRecord]) -> list[str]:
    """The stages as aligned lines."""
    titles = ("stage", "trains", "starts", "proposals of", "frozen", "steps", "epochs", "lr")
    rows = [titles, *(_cells(stage) for stage in stages)]
    learning = [row for row in rows if row[5]]
    shown = [i for i in range(len(titles)) if any(row[i] for row in learning[1:])]
    # What a stage does besides learning may run on over the empty columns.
    widths = [max(len(row[i]) for row in (rows if i == 0 else learning)) for i in shown]
    return [
        "  " + "  ".join(row[i].ljust(width) for i, width in zip(shown, widths, strict=True)).rstrip() for row in rows
    ]


def _cells(stage: StageRecord) -> tuple[str, ...]:
    """A stage's row of the table."""
    if stage.what:
        return (stage.name, f"({stage.what})", "", "", "", "", "", "")
    words = (" ".join(stage.trains), ", ".join(stage.start), stage.proposals, " ".join(stage.frozen))
    return (stage.name, *words, str(stage.steps), f"{stage.epochs:g}", f"{stage.lr:g}")


def estimate(
    costs: Mapping[str, Cost],
    recipe: Recipe,
    stages: Sequence[Stage],
    val_images: int,
    steps_per_epoch: int,
    device: torch.device,
) -> str:
    """The sentence about time and memory of the stages whose `costs` are known, a step's by the stage's name."""
    if not costs:
        return "none, for the batches are drawn from regions that are not found yet"
    train = recipe.train
    known = [stage for stage in stages if isinstance(stage, Learn) and stage.name in costs]
    training = sum(stage.steps * train.accumulate * costs[stage.name].seconds for stage in known)
    evaluating, evaluations = 0.0, 0
    for stage in known:
        if stage.evaluated:
            stretch = max(1, round(train.eval_every * steps_per_epoch)) if train.eval_every else max(stage.steps, 1)
            count = -(-stage.steps // stretch)
            evaluating += count * val_images * EVALUATION_COST * costs[stage.name].seconds / train.batch_size
            evaluations += count
    where = "on the GPU" if device.type == "cuda" else "of memory"
    what = f"; {evaluations} evaluations take {duration(evaluating)}" if evaluations else ""
    others = [stage.name for stage in stages if stage not in known]
    beside = f", beside {' and '.join(filter(None, [', '.join(others[:-1]), others[-1]]))}" if others else ""
    each = dict.fromkeys(f"{cost.seconds:.2f}" for cost in costs.values())
    memory = max(cost.memory for cost in costs.values())
    return (
        f"about {duration(training + evaluating)}{beside} ({' and '.join(each)} s a forward and backward pass{what}),"
        f" {memory / GIGA:.1f} GiB {where}"
    )
