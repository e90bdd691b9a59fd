"""Which stages each system's training has: the lineage as a table of lists.

    rcnn, sppnet   propose → (pretrain) → finetune → features → svm → boxes
    fast-rcnn      propose → train, or those and features → svm, or propose → classify → boxes
    faster-rcnn    joint

R-CNN: Girshick et al. 2014, section 2.3. SPP-net: He et al. 2014, section 4. Fast R-CNN: Girshick 2015, section 2.3;
its stage-wise and SVM variants are those of its tables 6 and 8. Faster R-CNN: Ren et al. 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from rcnn.errors import UserError, nearest
from rcnn.training import crops, fitting
from rcnn.training.proposing import find_regions
from rcnn.training.stages import Learn, Stage, Work


@dataclass(frozen=True)
class Budget:
    """What the stages of a run may take.

    Attributes:
        steps: optimiser steps of each stage that learns.
        lr: learning rate, scaled to the batch.
        random_start: whether the backbone's first weights are random.
    """

    steps: int
    lr: float
    random_start: bool = False


Scheme = Callable[[Budget], list[Stage]]

PROPOSE = Work(name="propose", what="finds the regions of every image", run=find_regions, shared=True)
FEATURES = Work(name="features", what="stores the features of every region", run=fitting.extract_features)
SVM = Work(name="svm", what="fits an SVM a class, with hard negatives", run=fitting.fit_svms)
BOXES = Work(name="boxes", what="fits a box regressor a class", run=fitting.fit_boxes, evaluated=True)


def joint(budget: Budget) -> list[Stage]:
    """Approximate joint training: one network, one backward pass (Ren et al. 2017, section 3.2, item ii)."""
    return [Learn(name="joint", trains=("*",), steps=budget.steps, lr=budget.lr)]


def on_regions(budget: Budget) -> list[Stage]:
    """Regions first, then one network trained at once for classes and boxes (Girshick 2015, section 2.3)."""
    return [PROPOSE, Learn(name="train", trains=("*",), steps=budget.steps, lr=budget.lr)]


def with_svms(budget: Budget) -> list[Stage]:
    """The multi-task network's features, judged by SVMs in place of its softmax (Girshick 2015, section 5.4)."""
    return [*on_regions(budget), FEATURES, replace(SVM, evaluated=True)]


def stage_wise(budget: Budget) -> list[Stage]:
    """The classifier first, then the box layer alone on its frozen features (Girshick 2015, section 5.1)."""
    classify = Learn(name="classify", trains=("*",), steps=budget.steps, lr=budget.lr, part="classify", evaluated=False)
    boxes = Learn(name="boxes", trains=("box_head.bbox_pred.*",), steps=budget.steps, lr=budget.lr, part="boxes")
    return [PROPOSE, classify, boxes]


def three_stages(budget: Budget, *, finetune: Callable[..., Learn]) -> list[Stage]:
    """Fine-tune, store features, fit SVMs and box regressors (Girshick et al. 2014, section 2.3 and appendix C).

    A random start is preceded by the classification of objects' crops, in the place of ImageNet.
    """
    learn = {"steps": budget.steps, "lr": budget.lr, "evaluated": False}
    pretrain = Learn(
        name="pretrain", trains=("*",), part="pretrain", loader=partial(crops.crop_loader, sampling="truth"), **learn
    )
    return [PROPOSE, *([pretrain] if budget.random_start else []), finetune(**learn), FEATURES, SVM, BOXES]


# R-CNN's mini-batches are crops out of the whole data set, known once every image has its regions; SPP-net's are
# regions of whole images, and only its fully connected layers learn from them.
of_crops = partial(
    Learn,
    name="finetune",
    trains=("*",),
    part="finetune",
    loader=partial(crops.crop_loader, sampling="regions"),
    ahead=False,
)
of_images = partial(Learn, name="finetune", trains=("fc.*", "cls_score.*"), part="finetune", ahead=False)

# System → name of the scheme → its stages; the first is the one that is used unasked.
SCHEMES: dict[str, dict[str, Scheme]] = {
    "rcnn": {"svm": partial(three_stages, finetune=of_crops)},
    "sppnet": {"svm": partial(three_stages, finetune=of_images)},
    "fast-rcnn": {"joint": on_regions, "stage-wise": stage_wise, "svm": with_svms},
    "faster-rcnn": {"joint": joint},
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
