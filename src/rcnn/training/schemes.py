"""Which stages each system's training has: the lineage as a table of lists.

    rcnn, sppnet   propose → (pretrain) → finetune → features → svm → boxes
    fast-rcnn      propose → train, or those and features → svm, or propose → classify → boxes
    fcn-…          (pretrain →) at-once, or (pretrain →) staged: 32s → 16s → 8s
    faster-rcnn    joint, or joint-warp; and, as rfcn does
                   alternating: rpn → propose → detector, for some rounds, the last with frozen convolutions
                   four-step: rpn → propose → detector (anew) → rpn (frozen) → propose → detector (frozen)
    mask-rcnn      joint

R-CNN: Girshick et al. 2014, section 2.3. SPP-net: He et al. 2014, section 4. Fast R-CNN: Girshick 2015, section 2.3;
its stage-wise and SVM variants are those of its tables 6 and 8. Faster R-CNN: Ren et al. 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Literal

from rcnn.errors import UserError, nearest
from rcnn.training import crops, fitting
from rcnn.training.proposing import find_regions, propose
from rcnn.training.stages import FIRST, Learn, Stage, Work

# Which scheme a setting of the plan is for.
HEEDED = {
    **dict.fromkeys(("pretrain_lr", "pretrain_steps"), ("at-once", "staged", "svm")),
    "gamma": ("staged",),
    **dict.fromkeys(("rounds", "interval", "freeze_last"), ("alternating",)),
    "handover": ("four-step",),
}


@dataclass(frozen=True)
class SchemeSettings:
    """What the schemes of several stages leave open.

    Attributes:
        pretrain_lr: what the learning rate is multiplied by in the stage `pretrain` of a random start.
        pretrain_steps: how many steps that stage takes, as a multiple of the next one's.
        gamma: of "staged", what the learning rate is multiplied by from each stage to the next.
        rounds: of "alternating".
        interval: of "alternating": "round" trains one network to its end, then the other; "batch" updates first one,
            then the other, on every batch.
        freeze_last: whether the last of several rounds freezes the shared convolutions, so that "alternating" ends as
            one network; without, and with a single round, RPN and detector keep a backbone each.
        handover: of "four-step": what the detector of step 4 starts from. "detector" is step 2's with all its layers
            (the MATLAB release, and the default); "rpn" is step 3's network, which has no layers for class and box,
            so that these start anew (py-faster-rcnn).
    """

    pretrain_lr: float = 1.0
    pretrain_steps: float = 1.0
    gamma: float = 1.0
    rounds: int = 2
    interval: Literal["round", "batch"] = "round"
    freeze_last: bool = True
    handover: Literal["detector", "rpn"] = "detector"

    def __post_init__(self) -> None:
        for name in ("pretrain_lr", "pretrain_steps", "gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"train.plan.{name} = {getattr(self, name)}: expected more than 0")
        if self.rounds < 1:
            raise UserError(f"train.plan.rounds = {self.rounds}: expected 1 or more")

    def check(self, scheme: str) -> None:
        """Refuses what was asked for of the stages and `scheme` would not heed."""
        for setting in fields(self):
            value, heed = getattr(self, setting.name), HEEDED[setting.name]
            if value != setting.default and scheme not in heed:
                those = " or ".join(f"'{name}'" for name in heed)
                raise UserError(f"train.plan.{setting.name} = {value!r} is for the scheme {those}, not '{scheme}'")

    @property
    def apart(self) -> bool:
        """Whether "alternating" leaves two backbones."""
        return self.interval == "round" and (self.rounds == 1 or not self.freeze_last)


@dataclass(frozen=True)
class Budget:
    """What the stages of a run may take.

    Attributes:
        steps: optimiser steps of each stage that learns, but for `pretrain`.
        lr: learning rate, scaled to the batch.
        random_start: whether the backbone's first weights are random.
        plan: how the stages follow one another.
    """

    steps: int
    lr: float
    random_start: bool = False
    plan: SchemeSettings = field(default_factory=SchemeSettings)

    @property
    def pretrain_steps(self) -> int:
        """Steps of the stage `pretrain`."""
        return max(1, round(self.steps * self.plan.pretrain_steps))


Scheme = Callable[[Budget], list[Stage]]
Pairs = tuple[tuple[str, str], ...]

# What tells class and box of a region, by the names of `heads.BoxHead`.
LAST_LAYERS = ("box_head.cls_score", "box_head.bbox_pred")

PROPOSE = Work(name="propose", what="finds the regions of every image", run=find_regions, shared=True)
FEATURES = Work(name="features", what="stores the features of every region", run=fitting.extract_features)
SVM = Work(name="svm", what="fits an SVM a class, with hard negatives", run=fitting.fit_svms)
BOXES = Work(name="boxes", what="fits a box regressor a class", run=fitting.fit_boxes, evaluated=True)


def joint(budget: Budget, name: str = "joint") -> list[Stage]:
    """One network, one backward pass (Ren et al. 2017, section 3.2): approximate joint training (item ii), or, where
    the model's proposals carry a gradient, the one that is not (item iii).
    """
    return [Learn(name=name, trains=("*",), steps=budget.steps, lr=budget.lr)]


def alternating(budget: Budget, *, own: Sequence[str] = ("box_head",)) -> list[Stage]:
    """RPN and detector in turn, each from the other's convolutions (Ren et al. 2017, section 3.2, item i).

    Args:
        own: the modules that only the detector has.
    """
    plan = budget.plan
    if plan.interval == "batch":
        return [Learn(name="alternating", trains=("*",), steps=budget.steps, lr=budget.lr, parts=("rpn", "detector"))]
    stages: list[Stage] = []
    for number in range(1, plan.rounds + 1):
        frozen = plan.freeze_last and 1 < plan.rounds == number
        if plan.apart:
            taken = (("rpn_backbone", "backbone"),) if number > 1 else ()
            stages += [_rpn(budget, number, "rpn_backbone", start=taken), _propose(number)]
            stages += [_detector(budget, number, own, "backbone", start=(("backbone", "rpn_backbone"),))]
            continue
        convolutions = () if frozen else ("backbone",)
        stages += [_rpn(budget, number, *convolutions), _propose(number), _detector(budget, number, own, *convolutions)]
    return [*stages[:-1], replace(stages[-1], evaluated=True)]


def four_step(budget: Budget, *, own: Sequence[str] = ("box_head",), last: Sequence[str] = LAST_LAYERS) -> list[Stage]:
    """The authors' code: two networks that share nothing, then one on the detector's convolutions, which stand still
    (Ren et al. 2015, section 3.3).

    Args:
        own: the modules that only the detector has.
        last: those of them that no RPN's network carries along, see `SchemeSettings.handover`.
    """
    anew = last if budget.plan.handover == "rpn" else ()
    return [
        _rpn(budget, 1, "backbone"),
        _propose(1),
        _detector(budget, 1, own, "backbone", start=(("backbone", FIRST),)),
        _rpn(budget, 2, start=(("rpn", FIRST),)),
        _propose(2),
        replace(_detector(budget, 2, own, start=tuple((module, FIRST) for module in anew)), evaluated=True),
    ]


def _rpn(budget: Budget, number: int, *backbones: str, start: Pairs = ()) -> Learn:
    """Round `number` of the RPN, with these backbones; without, the shared one is frozen."""
    return Learn(
        name=f"rpn-{number}",
        trains=tuple(f"{module}.*" for module in (*backbones, "rpn")),
        steps=budget.steps,
        lr=budget.lr,
        parts=("rpn",),
        start=start,
        frozen=() if backbones else ("backbone",),
        kept=True,
        evaluated=False,
    )


def _propose(number: int) -> Work:
    """The proposals of round `number`."""
    what = f"proposes regions of every training image by the model of rpn-{number}"
    return Work(name=f"propose-{number}", what=what, run=partial(propose, by=f"rpn-{number}"), shared=True)


def _detector(budget: Budget, number: int, own: Sequence[str], *backbones: str, start: Pairs = ()) -> Learn:
    """Round `number` of the detector, on the RPN's proposals of the same; see `_rpn`."""
    return Learn(
        name=f"detector-{number}",
        trains=tuple(f"{module}.*" for module in (*backbones, *own)),
        steps=budget.steps,
        lr=budget.lr,
        parts=("detector",),
        start=start,
        frozen=() if backbones else ("backbone", "rpn"),
        proposals=f"rpn-{number}",
        kept=True,
        evaluated=False,
    )


def on_regions(budget: Budget) -> list[Stage]:
    """Regions first, then one network trained at once for classes and boxes (Girshick 2015, section 2.3)."""
    return [PROPOSE, Learn(name="train", trains=("*",), steps=budget.steps, lr=budget.lr)]


def with_svms(budget: Budget) -> list[Stage]:
    """The multi-task network's features, judged by SVMs in place of its softmax (Girshick 2015, section 5.4)."""
    return [*on_regions(budget), FEATURES, replace(SVM, evaluated=True)]


def stage_wise(budget: Budget) -> list[Stage]:
    """The classifier first, then the box layer alone on its frozen features (Girshick 2015, section 5.1)."""
    classify = Learn(
        name="classify", trains=("*",), steps=budget.steps, lr=budget.lr, parts=("classify",), evaluated=False
    )
    boxes = Learn(name="boxes", trains=("box_head.bbox_pred.*",), steps=budget.steps, lr=budget.lr, parts=("boxes",))
    return [PROPOSE, classify, boxes]


def at_once(budget: Budget) -> list[Stage]:
    """All of an FCN's scores together (Shelhamer et al. 2017, section 4.2)."""
    return [*_classifier(budget), *joint(budget, "at-once")]


def staged(budget: Budget, *, finest: int) -> list[Stage]:
    """FCN-32s, then FCN-16s from it, then FCN-8s from that, as far as `finest` (Long et al. 2015, section 4.3)."""
    stages = _classifier(budget)
    patterns: tuple[str, ...] = ("backbone.*",)
    for number, stride in enumerate(stride for stride in (32, 16, 8) if stride >= finest):
        patterns = (*patterns, f"head.levels.{stride}.*")
        lr = budget.lr * budget.plan.gamma**number
        stages.append(Learn(name=f"{stride}s", trains=patterns, steps=budget.steps, lr=lr, parts=(f"{stride}s",)))
    return stages


def _classifier(budget: Budget) -> list[Stage]:
    """What a random start needs in the place of ImageNet: objects' pixels are told apart first, of which the loss over
    all pixels, nearly all of them background, says little.
    """
    learn = Learn(
        name="pretrain",
        trains=("backbone.*", "head.levels.32.*"),
        steps=budget.pretrain_steps,
        lr=budget.lr * budget.plan.pretrain_lr,
        parts=("pretrain",),
        evaluated=False,
    )
    return [learn] if budget.random_start else []


def three_stages(budget: Budget, *, finetune: Callable[..., Learn]) -> list[Stage]:
    """Fine-tune, store features, fit SVMs and box regressors (Girshick et al. 2014, section 2.3 and appendix C).

    A random start is preceded by the classification of objects' crops, in the place of ImageNet.
    """
    learn = {"steps": budget.steps, "lr": budget.lr, "evaluated": False}
    pretrain = Learn(
        name="pretrain",
        trains=("*",),
        steps=budget.pretrain_steps,
        lr=budget.lr * budget.plan.pretrain_lr,
        parts=("pretrain",),
        loader=partial(crops.crop_loader, sampling="truth"),
        evaluated=False,
    )
    return [PROPOSE, *([pretrain] if budget.random_start else []), finetune(**learn), FEATURES, SVM, BOXES]


# R-CNN's mini-batches are crops out of the whole data set, known once every image has its regions; SPP-net's are
# regions of whole images, and only its fully connected layers learn from them.
of_crops = partial(
    Learn,
    name="finetune",
    trains=("*",),
    parts=("finetune",),
    loader=partial(crops.crop_loader, sampling="regions"),
    ahead=False,
)
of_images = partial(Learn, name="finetune", trains=("fc.*", "cls_score.*"), parts=("finetune",))

# System → name of the scheme → its stages; the first is the one that is used unasked.
SCHEMES: dict[str, dict[str, Scheme]] = {
    "rcnn": {"svm": partial(three_stages, finetune=of_crops)},
    "sppnet": {"svm": partial(three_stages, finetune=of_images)},
    "fast-rcnn": {"joint": on_regions, "stage-wise": stage_wise, "svm": with_svms},
    "faster-rcnn": {
        "joint": joint,
        "joint-warp": partial(joint, name="joint-warp"),
        "alternating": alternating,
        "four-step": four_step,
    },
    "rfcn": {
        "joint": joint,
        "alternating": alternating,
        "four-step": partial(four_step, last=("box_head",)),  # all of it is R-FCN's own
    },
    "mask-rcnn": {"joint": joint},
    "fcn-32s": {"at-once": at_once},
    "fcn-16s": {"at-once": at_once, "staged": partial(staged, finest=16)},
    "fcn-8s": {"at-once": at_once, "staged": partial(staged, finest=8)},
}


def scheme_of(system: str, name: str | None) -> tuple[str, Scheme]:
    """The scheme `name` of "SYSTEM/BACKBONE", or the system's usual one, with its name.

    Raises:
        UserError: the system has no such scheme.
    """
    family = system.partition("/")[0]
    schemes = SCHEMES[family]
    chosen = name or next(iter(schemes))
    if chosen not in schemes:
        raise UserError(f"{family} has no scheme '{chosen}'{nearest(chosen, schemes)}")
    return chosen, schemes[chosen]
