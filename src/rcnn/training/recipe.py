"""A recipe: every setting of a run, fully resolved, checked, and written to `recipe.toml`, which repeats the run.

Keys are dotted by part: `model.…` (the system's options), `augment.…`, `train.…`, `data.…`. Values come, the later
winning, from the named preset, a configuration file, `--set key=value`, and named flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from rcnn import backbones, detectors
from rcnn.data import Augmentation
from rcnn.detectors import to_mapping, updated
from rcnn.errors import UserError, nearest
from rcnn.training import reading, toml
from rcnn.training.presets import AUGMENTATIONS, RECIPES, needs, presets
from rcnn.training.schemes import SchemeSettings, scheme_of
from rcnn.training.stages import Learn, Stage, Work

FILE = "recipe.toml"
HEADER = (
    "# Every setting of this run. `rcnn train --config recipe.toml` repeats it; [[stages]] only records what ran.\n"
)
PARTS = ("data", "model", "augment", "train")


@dataclass(frozen=True)
class DataSettings:
    """What is learnt from.

    Attributes:
        path: as of `data.open_dataset`.
        train: the split to train on.
        val: the split to validate on.
        classes: their names in the model's order; None takes all.
        regions: a file or folder of boxes to learn from in place of those that the system would find, as of
            `proposals.FileRegions`; None for the system's own.
    """

    path: str = ""
    train: str = "train"
    val: str = "val"
    classes: tuple[str, ...] | None = None
    regions: str | None = None


@dataclass(frozen=True)
class TrainSettings:
    """How it is learnt; the defaults are the modern recipe's.

    Attributes:
        epochs: passes over the data of each trained stage; None where `steps` is given.
        steps: optimiser steps of each trained stage instead.
        batch_size: images a forward pass, of each process.
        accumulate: forward passes an optimiser step.
        lr: learning rate for `lr_batch` images a step, scaled linearly to the batch in use.
        lr_batch: see `lr`; 0 takes `lr` as it is.
        momentum: of SGD.
        weight_decay: of SGD.
        bias_lr: multiplies the learning rate of biases.
        bias_decay: whether weight decay applies to biases.
        norm_decay: whether it applies to scale and shift of normalisation layers.
        lr_multipliers: pairs of a pattern of parameter names and what multiplies their rate: `[["backbone.*", 0.1]]`.
        schedule: what the learning rate does after the warm-up.
        milestones: of "step", where the rate drops: fractions of the run below 1, else steps.
        gamma: of "step", what it is multiplied by there.
        warmup_steps: length of the linear rise at the start, at most a fifth of the run.
        warmup_factor: what the rise starts from.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the averaged weights that are evaluated and saved; 0 keeps none.
        precision: "auto" is bf16 on GPUs that have it, else fp32.
        patience: evaluations without a better mAP before the run stops; 0 never stops it.
        eval_every: epochs between evaluations; 0 evaluates only at the end.
        checkpoint_every: seconds between saved states; 0 saves after every step.
        seed: of every random choice.
        workers: processes that load images; 0 loads in the training process, "auto" takes some where a GPU would wait.
        device: "auto", "cpu", "cuda" or "mps".
        plan: how the stages of a scheme follow one another, see `schemes.SchemeSettings`.
    """

    epochs: float | None = 12.0
    steps: int | None = None
    batch_size: int = 4
    accumulate: int = 1
    lr: float = 0.01
    lr_batch: int = 4
    momentum: float = 0.9
    weight_decay: float = 0.0001
    bias_lr: float = 1.0
    bias_decay: bool = True
    norm_decay: bool = True
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_steps: int = 100
    warmup_factor: float = 0.01
    clip: float = 10.0
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    patience: int = 0
    eval_every: float = 1.0
    checkpoint_every: float = 120.0
    seed: int = 0
    workers: int | Literal["auto"] = "auto"
    device: str = "auto"
    plan: SchemeSettings = field(default_factory=SchemeSettings)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "accumulate", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"train.{name} = {value}: expected more than 0")
        for name in ("lr_batch", "weight_decay", "warmup_steps", "clip", "patience", "eval_every", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"train.{name} = {getattr(self, name)}: expected 0 or more")
        if self.workers != "auto" and self.workers < 0:
            raise UserError(f"train.workers = {self.workers}: expected 0 or more, or 'auto'")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"train.{name} = {getattr(self, name)}: expected at least 0 and less than 1")

    @property
    def images_per_step(self) -> int:
        """Images that an optimiser step sees in one process."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True)
class StageRecord:
    """One stage as `recipe.toml` records it: of what it learns, or of what else it does; see `stages`."""

    name: str
    trains: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    proposals: str = ""
    frozen: tuple[str, ...] = ()
    steps: int = 0
    epochs: float = 0.0
    lr: float = 0.0
    what: str = ""


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run.

    Attributes:
        system: such as "faster-rcnn/resnet18-fpn".
        recipe: the preset that it started from.
        scheme: how the stages follow one another.
        weights: the backbone's first weights: a file, "imagenet", or None for a random start.
        data: see `DataSettings`.
        model: the system's options as a nested mapping: what was asked for, and all of them once the model is built.
        augment: see `data.Augmentation`.
        train: see `TrainSettings`.
        stages: the record of what ran, in order.
    """

    system: str
    recipe: str
    scheme: str
    weights: str | None
    data: DataSettings
    model: Mapping[str, Any]
    augment: Augmentation
    train: TrainSettings
    stages: tuple[StageRecord, ...] = field(default=())

    def to_toml(self) -> str:
        """The text of `recipe.toml`."""
        return HEADER + toml.dumps(to_mapping(self))

    def planned(self, stages: Sequence[Stage], steps_per_epoch: int) -> Recipe:
        """The same recipe with the record of `stages`."""
        return replace(self, stages=tuple(_record(stage, steps_per_epoch) for stage in stages))


def _record(stage: Stage, steps_per_epoch: int) -> StageRecord:
    if isinstance(stage, Learn):
        epochs = round(stage.steps / steps_per_epoch, 3)
        start = tuple(f"{module} from {source}" for module, source in stage.start)
        return StageRecord(
            stage.name, stage.trains, start, stage.proposals, stage.frozen, stage.steps, epochs, stage.lr
        )
    return StageRecord(stage.name, what=stage.what if isinstance(stage, Work) else "")


def resolve(layers: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe that nested settings make over the preset that they name, the later layer winning.

    Raises:
        UserError: an unknown system, recipe, scheme or setting, or a value of the wrong kind; one sentence each.
    """
    named: dict[str, Any] = {"recipe": "modern", "scheme": None, "weights": None}
    for layer in layers:
        named |= {key: value for key, value in layer.items() if key not in (*PARTS, "stages")}
    if not isinstance(named.get("system"), str):
        raise UserError("no system was named; expected SYSTEM/BACKBONE such as faster-rcnn/resnet18-fpn")
    if named["recipe"] not in RECIPES:
        raise UserError(f"there is no recipe '{named['recipe']}'{nearest(str(named['recipe']), RECIPES)}")
    if named["weights"] == toml.NOTHING:
        named["weights"] = None
    detectors.parse(named["system"])
    named["scheme"], _ = scheme_of(named["system"], named["scheme"])
    parts: dict[str, Any] = {
        "data": DataSettings(),
        "model": {},
        "augment": AUGMENTATIONS[named["recipe"]],
        "train": TrainSettings(),
    }
    _check_names(named, parts)
    path = next((layer["data"]["path"] for layer in reversed(layers) if "path" in layer.get("data", {})), "")
    for layer in [*presets(named["system"], named["recipe"], named["scheme"], path), *layers]:
        for part, changes in layer.items():
            if part in PARTS:
                parts[part] = _laid_over(parts[part], changes, part)
    parts["train"].plan.check(named["scheme"])
    parts["model"] = _meeting(parts["model"], needs(named["system"], named["scheme"], parts["train"].plan), named)
    if not parts["data"].path:
        raise UserError("no data was named; expected --data with `digits`, or a VOC, COCO or YOLO data set")
    return Recipe(**named, **parts)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a run's `recipe.toml`, its record of stages left out; errors as of `resolve`."""
    return resolve([reading.read_config(path)])


def differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two recipes differ, each with both values; the record of stages does not count."""
    before, after = (reading.flat(to_mapping(replace(recipe, stages=()))) for recipe in (old, new))
    pairs = [(key, before.get(key), after.get(key)) for key in {**before, **after}]
    absent = (None, toml.NOTHING)
    return [(key, a, b) for key, a, b in pairs if a != b and not (a in absent and b in absent)]


def _laid_over(current: Any, changes: Any, part: str) -> Any:
    """One part with the changes of one layer; `steps` puts a lower layer's `epochs` out of force, and vice versa."""
    if not isinstance(changes, Mapping):
        raise UserError(f"{part} = {changes!r}: expected a table of settings, such as [{part}] in a file")
    if part == "model":
        return reading.merged(current, changes)  # its system checks it when the model is built
    if part == "train":
        given = [key for key in ("epochs", "steps") if changes.get(key) not in (None, toml.NOTHING)]
        if len(given) == 2:
            raise UserError("train.epochs and train.steps: expected one of the two")
        if given:
            changes = {**changes, "epochs": None, "steps": None, given[0]: changes[given[0]]}
    return updated(current, changes, path=part)


def _meeting(model: Mapping[str, Any], needed: Mapping[str, Any], named: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the model with what its scheme needs; refuses others in their place."""
    given = reading.flat(model)
    for key, value in reading.flat(needed).items():
        if given.get(key, value) != value:
            raise UserError(f"model.{key} = {given[key]!r}: the scheme '{named['scheme']}' needs {value!r}")
    if named["scheme"] == "joint-warp" and not given.get("proposal_gradient", 1):
        raise UserError("model.proposal_gradient = 0: the scheme 'joint-warp' without it is 'joint'")
    return reading.merged(model, needed)


def _check_names(named: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Refuses the first key outside the parts that is no setting, with the part that has one of that name."""
    known = [option.name for option in fields(Recipe)]
    for key, value in reading.flat({name: value for name, value in named.items() if name not in known}).items():
        system, backbone = detectors.parse(named["system"])
        model = system.presets[named["recipe"]](backbones.entry(backbone).strides)
        places = {**parts, "model": model}
        within = [f"{part}.{key}" for part, options in places.items() if hasattr(options, key.partition(".")[0])]
        hint = f"; did you mean '{within[0]}'?" if within else nearest(key, known)
        raise UserError(f"{key} = {value!r}: unknown setting{hint}")
