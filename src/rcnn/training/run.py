"""`rcnn.train`: from what the user asked for to a run folder.

RUN holds `recipe.toml` (every setting), `metrics.csv` and `log.jsonl`, `best/` and `last/` (model folders) and `state/`
(what `resume` goes on from).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnn import detectors
from rcnn.data import Dataset, TrainLoader, label_maps, open_dataset
from rcnn.data.dataset import DIGITS
from rcnn.detectors import Detector, choose_device, to_mapping
from rcnn.detectors.starting import is_model, start_from
from rcnn.errors import UserError
from rcnn.files import require_place, write_text
from rcnn.process import cpus
from rcnn.proposals import CachedRegions, FileRegions
from rcnn.training import plan, reading
from rcnn.training.engine import BEST, LAST, Engine
from rcnn.training.interrupt import Interrupt, Stopped
from rcnn.training.job import Job
from rcnn.training.loading import image_loader
from rcnn.training.logs import read_metrics
from rcnn.training.progress import Reporter, duration
from rcnn.training.recipe import FILE, Recipe, differences, read_recipe, resolve
from rcnn.training.schedule import scaled_lr
from rcnn.training.schemes import Budget, scheme_of
from rcnn.training.stages import Learn, Stage
from rcnn.training.state import load_state
from rcnn.training.validation import validate
from rcnn.training.world import World, joined

# What a resumed run may have otherwise than before: it changes nothing but speed.
FREE = ("train.workers", "train.device", "train.checkpoint_every")
# Argument of `train` → the setting that it names.
FLAGS = {
    **{name: name for name in ("system", "recipe", "scheme", "weights")},
    "data": "data.path",
    "classes": "data.classes",
    "image_size": "model.image_size",
    **{name: f"train.plan.{name}" for name in ("rounds", "interval")},
    **{
        name: f"train.{name}"
        for name in ("epochs", "steps", "batch_size", "lr", "workers", "device", "precision", "seed")
    },
}


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        run: the run folder.
        best: the model folder with the highest mAP, or mean IoU of label maps; `last`: that after the last step.
        recipe: every setting.
        metrics: the figures of the best evaluation, a row of `history`.
        history: the rows of `metrics.csv`: losses, validation losses and mAP, an evaluation each.
        seconds: time spent.
    """

    run: Path
    best: Path
    last: Path
    recipe: Recipe
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: float


def train(
    system: str | None = None,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    recipe: str | None = None,
    scheme: str | None = None,
    rounds: int | None = None,
    interval: str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    weights: str | Path | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    workers: int | str | None = None,
    device: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    dry_run: bool = False,
    quiet: bool = False,
) -> TrainingResult | None:
    """Trains a detector; what is None comes from `config`, or else from the recipe.

    Args:
        system: "SYSTEM/BACKBONE", such as "faster-rcnn/resnet18-fpn".
        data: `digits`, or the place of a VOC, COCO or YOLO data set.
        out: the run folder; None takes the next free `runs/SYSTEM-BACKBONE-N`.
        classes: those to learn, in the order of their labels; None takes all.
        recipe: "modern" or "classic".
        scheme: how the stages follow one another, such as "joint"; None takes the system's usual.
        rounds: of the scheme "alternating", how often RPN and detector are trained.
        interval: of the same, "round", or "batch" to update both on every batch.
        epochs: passes over the data of each trained stage; `steps`: optimiser steps instead.
        weights: the backbone's first weights: a file, "imagenet", or "none" for a random start; or a run or model
            folder of this system, to start from all of its weights, by its options.
        batch_size: images a forward pass.
        lr: learning rate, used as it is; the recipe's own is scaled to the batch.
        image_size: shorter side in pixels, or (shorter, longest).
        workers: processes that load images, or "auto".
        device: "auto", "cpu", "cuda", "mps".
        precision: "auto", "fp32", "bf16".
        seed: of every random choice.
        resume: goes on with the run in `out`, which keeps its recipe.
        config: a TOML or YAML file of settings, such as another run's `recipe.toml`.
        settings: further settings, {"train.ema": 0.999} or ["train.ema=0.999"]; they win over `config`.
        dry_run: stops after the plan and one batch, and writes nothing.
        quiet: says evaluations only.

    Returns:
        the result; None after a dry run, and in processes of a joint run that are not its first.

    Raises:
        UserError: something asked for is unknown, missing or contradictory.
        RCNNError: the loss is not finite, or the disk fails.
        KeyboardInterrupt: Ctrl-C; the run can be resumed.
    """
    reporter = Reporter(quiet=quiet)
    asked = [
        *([reading.read_config(config)] if config else []),
        *_assignments(settings),
        flags(
            system=system,
            data=data,
            out=out,
            classes=classes,
            recipe=recipe,
            scheme=scheme,
            rounds=rounds,
            interval=interval,
            epochs=epochs,
            steps=steps,
            weights=weights,
            batch_size=batch_size,
            lr=lr,
            image_size=image_size,
            workers=workers,
            device=device,
            precision=precision,
            seed=seed,
        ),
    ]
    if resume:
        resolved, out = _resumed(out, asked)
    else:
        resolved = resolve([*asked, _anchored(resolve(asked))])
    with joined(choose_device(resolved.train.device)) as (world, chosen):
        reporter.silent = not world.first
        run = Path(out) if out else world.gather(_next_free(resolved.system))[0]
        if not resume:
            _refuse_used(run)
            world.gather(None)  # nobody makes the folder before everybody has looked
        return _train(resolved, run, world, chosen, reporter, resume=resume, dry_run=dry_run)


def flags(**given: Any) -> dict[str, Any]:
    """The named arguments of `train` that are not None, as nested settings."""
    layer: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name == "out":
            continue
        if name in ("data", "weights"):
            value = str(value)
        if name == "image_size" and isinstance(value, int):
            value = (value, value * 5 // 3)  # 600 and 1000 pixels of Girshick 2015, section 4.1
        if name == "lr":
            layer = reading.merged(layer, {"train": {"lr_batch": 0}})
        layer = reading.merged(layer, reading.nested(FLAGS[name], value))
    return layer


def _anchored(recipe: Recipe) -> dict[str, Any]:
    """The layer that makes the recipe's paths absolute, so that the run is understood from any folder."""

    def absolute(path: str) -> str:
        return str(Path(path).resolve()) if path != DIGITS and Path(path).exists() else path

    layer: dict[str, Any] = {"data": {"path": absolute(recipe.data.path)}}
    if recipe.weights not in (None, "none", "imagenet"):
        layer["weights"] = absolute(str(recipe.weights))
    return layer


def _assignments(settings: Mapping[str, Any] | Sequence[str]) -> list[Mapping[str, Any]]:
    """Each further setting as a layer of its own, so that the later wins."""
    if isinstance(settings, Mapping):
        return [reading.nested(key, value) for key, value in settings.items()]
    return [reading.parse_assignment(text) for text in settings]


def _resumed(out: str | Path | None, asked: Sequence[Mapping[str, Any]]) -> tuple[Recipe, Path]:
    """The recipe of the run in `out`; refuses settings other than it has."""
    if out is None:
        raise UserError("which run is to be resumed? expected --out with its folder")
    run = Path(out)
    if not (run / FILE).is_file():
        raise UserError(f"'{run}' holds no run to resume: there is no {FILE} in it")
    saved = read_recipe(run / FILE)
    layers = [reading.read_config(run / FILE), *asked]
    resolved = resolve([*layers, _anchored(resolve(layers))])
    for key, before, now in differences(saved, resolved):
        if key not in FREE:
            raise UserError(
                f"{key} = {now!r}: the run in '{run}' was started with {before!r}, which a resumed run keeps;"
                " leave it out, or start a new run"
            )
    return resolved, run


def _next_free(system: str) -> Path:
    """The first of `runs/SYSTEM-BACKBONE-1`, `-2`, … that does not exist."""
    number = 1
    while (path := Path("runs") / f"{system.replace('/', '-')}-{number}").exists():
        number += 1
    return path


def _refuse_used(run: Path) -> None:
    """Refuses a run folder that holds something or cannot be written."""
    require_place(run, folder=True)
    if (run / FILE).exists():
        raise UserError(f"'{run}' holds a run already; choose another --out, or add --resume to go on with it")
    if run.exists() and any(run.iterdir()):
        raise UserError(f"'{run}' is not empty; choose another --out")


def _train(
    recipe: Recipe, run: Path, world: World, device: torch.device, reporter: Reporter, *, resume: bool, dry_run: bool
) -> TrainingResult | None:
    """Builds everything that the recipe names, tells the plan, and trains."""
    settings = recipe.train
    train_set, val_set, recipe = _open(recipe)
    state = load_state(run) if resume else None
    model, recipe = _build(recipe, device, reporter.say, trained_before=resume and state is not None)
    model.category_ids = train_set.category_ids
    if model.learns_masks:
        reporter.say(_masks_of(train_set))
    regions = _regions(recipe, model, train_set, val_set)
    workers = _workers(settings.workers, device, world)
    job = Job(model, recipe, train_set, val_set, regions, run, workers, world, reporter, Interrupt())
    loader = image_loader(job)
    steps_per_epoch = math.ceil(loader.steps_per_epoch / settings.accumulate)
    images_per_step = settings.images_per_step * world.size
    _, scheme = scheme_of(recipe.system, recipe.scheme)
    stages = scheme(
        Budget(
            steps=settings.steps or max(1, round((settings.epochs or 0) * steps_per_epoch)),
            lr=scaled_lr(settings.lr, settings.lr_batch, images_per_step),
            random_start=recipe.weights in (None, "none"),
            plan=settings.plan,
        )
    )
    recipe = recipe.planned(stages, steps_per_epoch)
    job = replace(job, recipe=recipe)
    for line in plan.describe(model, recipe, train_set, val_set, images_per_step):
        reporter.say(line)
    if state is None:
        costs = _tried(job, stages, loader)
        reporter.say(f"estimate: {plan.estimate(costs, recipe, stages, len(val_set), steps_per_epoch, device)}")
        if dry_run:
            tried = [f"one batch gave a loss of {cost.loss:.4f}" for cost in costs.values()][:1]
            reporter.say(f"dry run: {'; '.join([*tried, 'nothing was written'])}")
    if dry_run:
        return None
    reporter.say(f"run folder: {run}")
    if world.first and not resume:
        write_text(run / FILE, recipe.to_toml())
    world.gather(None)  # the folder is there
    validation = partial(
        validate, model, val_set, batch_size=settings.batch_size, workers=workers, world=world, regions=regions
    )
    engine = Engine(job, stages, steps_per_epoch, loader, validation, state=state)
    try:
        engine.train_all()
    except Stopped:
        reporter.result(f"stopped; `rcnn train --resume --out {run}` goes on with it")
        raise
    return _result(run, recipe, model.figures, engine.progress.seconds, reporter) if world.first else None


def _tried(job: Job, stages: Sequence[Stage], loader: TrainLoader) -> dict[str, plan.Cost]:
    """What a step of each stage costs whose batches can be had now; stages that train alike cost the same."""
    costs: dict[str, plan.Cost] = {}
    known: dict[tuple[tuple[str, ...], ...], plan.Cost] = {}
    for stage in stages:
        if not isinstance(stage, Learn) or not stage.ahead:
            continue
        alike = stage.parts, stage.trains, stage.frozen
        if alike not in known:
            batches = stage.loader(job.at(stage.name)) if stage.loader else loader
            known[alike] = plan.try_step(job.model, next(batches.batches(0)), stage)
        costs[stage.name] = known[alike]
    return costs


def _open(recipe: Recipe) -> tuple[Dataset, Dataset, Recipe]:
    """The data to train on and to validate on, and the recipe with the classes."""
    wanted = recipe.data
    semantic = detectors.semantic(recipe.system)
    train_set = open_dataset(wanted.path, wanted.train, classes=wanted.classes, semantic=semantic)
    if not semantic and train_set.format == label_maps.FORMAT:
        raise UserError(
            f"data '{wanted.path}' has label maps but no boxes: {recipe.system} cannot learn from it, an FCN can"
        )
    classes = tuple(train_set.classes)
    val_set = open_dataset(wanted.path, wanted.val, classes=classes, semantic=semantic)
    return train_set, val_set, replace(recipe, data=replace(wanted, classes=classes))


def _masks_of(dataset: Dataset) -> str:
    """How many objects have a mask, which a system that learns them cannot do without."""
    masked = dataset.masked
    if not masked.any():
        raise UserError(
            f"data '{dataset.data}' has no masks in its split '{dataset.split}'; expected polygons or RLE in COCO's"
            " 'segmentation', SegmentationObject in a VOC root, or polygons in YOLO's labels"
        )
    rest = int((~masked).sum())
    note = f"; the other {rest} train class and box alone" if rest else ""
    return f"{int(masked.sum())} of {len(masked)} objects have masks{note}"


def _build(
    recipe: Recipe, device: torch.device, say: Callable[[str], object], *, trained_before: bool
) -> tuple[Any, Recipe]:
    """The model on its device, and the recipe with all of its options; a resumed one needs no first weights."""
    torch.manual_seed(recipe.train.seed)
    classes = recipe.data.classes or ()
    if not trained_before and recipe.weights is not None and is_model(recipe.weights):
        model, anew = start_from(recipe.weights, recipe.system, classes, recipe.model)
        if anew:
            say(f"of '{recipe.weights}' all is taken but {len(anew)} tensors, which start anew: first '{anew[0]}'")
    else:
        weights = None if trained_before else recipe.weights
        model = detectors.create(recipe.system, classes, recipe=recipe.recipe, weights=weights, settings=recipe.model)
    model.precision = recipe.train.precision
    return model.to(device), replace(recipe, system=model.system, model=to_mapping(model.options))


def _workers(asked: int | str, device: torch.device, world: World) -> int:
    """Processes that load images: on a CPU more of them would only take turns with the training itself."""
    if asked != "auto":
        return int(asked)
    return 0 if device.type == "cpu" else min(8, max(1, cpus() // world.size - 1))


def _regions(
    recipe: Recipe, model: Detector, train_set: Dataset, val_set: Dataset
) -> Callable[[Dataset, int], np.ndarray] | None:
    """Where the boxes come from that the system does not find by itself: the user's file, or its own method, kept."""
    if model.region_method is None:
        if recipe.data.regions:
            raise UserError(f"data.regions = {recipe.data.regions!r}: {recipe.system} finds its regions by itself")
        return None
    if recipe.data.regions:
        return FileRegions(recipe.data.regions, train_set, val_set, count=model.options.regions.count)
    return CachedRegions(model.region_method)


def _result(run: Path, recipe: Recipe, figures: Sequence[str], seconds: float, reporter: Reporter) -> TrainingResult:
    """Reads the result of a finished run, by the model's `figures`, and says where it is."""
    history = read_metrics(run)
    first, second = figures[:2]
    best = max((row for row in history if row["stage"] == history[-1]["stage"]), key=lambda row: row[first])
    reporter.result(
        f"trained in {duration(seconds)}; best {first} {best[first]:.4f} ({second} {best[second]:.4f})"
        f" at step {best['step']}; run folder: {run}"
    )
    return TrainingResult(run, run / BEST, run / LAST, recipe, best, history, seconds)
