"""The last three stages of R-CNN and SPP-net: features of every region on disk, SVMs on fc7, box regressors on pool5
(Girshick et al. 2014, section 2.3 and appendices B and C). Fast R-CNN's SVM variant takes the first two.

A stage that is called again goes on where it was stopped. Features are known by what they were made from (weights,
regions, objects, settings, image files), and the stages that use them make what is missing themselves. Letters: I
images, R rows of one image (its objects first, then its regions), K classes, D and F length of fc7 and pool5.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from rcnn import boxes as box_ops
from rcnn.data import resize
from rcnn.data.collate import collate
from rcnn.data.dataset import Truth
from rcnn.detectors import Detector, evaluating, to_mapping
from rcnn.files import writing
from rcnn.heads.ridge import CODER, RidgeBoxes, RidgeSums
from rcnn.heads.svm import HardNegativeMining, LinearSVMs
from rcnn.structures import ImageBatch, Proposals
from rcnn.training.crops import overlaps
from rcnn.training.features import FeatureFiles, Layout, holds
from rcnn.training.job import Job

# Their stages fit these parts of a model, and its features do not depend on them.
FITTED = ("svm.", "ridge.")
# Settings that come in after the features, besides those of the fitted parts.
LATER = ("svm", "ridge", "score", "nms", "detections", "finetune", "crops")
# Images whose features' norm stands for all.
NORM_IMAGES = 200
# Seconds between two saved states of a fit.
SAVE_EVERY = 30.0


class Fitted(Protocol):
    """What a detector has that SVMs and box regressors are fitted for; Fast R-CNN has no `ridge`."""

    svm: LinearSVMs
    ridge: RidgeBoxes

    def region_features(self, images: ImageBatch, proposals: Proposals | None) -> tuple[Tensor, Tensor]:
        """pool5 [R, F] and fc7 [R, D] of the valid proposals."""


def _fitted(model: Detector) -> Fitted:
    return cast(Fitted, model)


@dataclass
class Rows:
    """What the features of one image are of.

    Attributes:
        boxes: [R, 4] pixels of the original image: its G objects that count, then its regions.
        truth: all of its objects.
        objects: G.
        near: [R] bool, regions that box regression learns from; goals: [R, 4], the object of each of them, and
            labels: [R], its class.
    """

    boxes: np.ndarray
    truth: Truth
    objects: int
    near: np.ndarray
    goals: np.ndarray
    labels: np.ndarray


def rows_of(job: Job, image: int) -> Rows:
    """The rows of training image `image`; regions within an IoU above the ridge's overlap of an object are near it."""
    truth = job.train_set.truth(image)
    own = truth.boxes[~truth.ignore]
    assert job.regions is not None
    boxes = np.concatenate((own, job.regions(job.train_set, image))).astype(np.float32)
    overlap, index, _ = overlaps(boxes, truth.boxes, truth.ignore)
    ridge = getattr(job.model.options, "ridge", None)
    near = overlap > ridge.overlap if ridge is not None else np.zeros(len(boxes), bool)
    near[: len(own)] = False  # an object's own box has nowhere to move
    goals = truth.boxes[index] if len(truth) else np.zeros((len(boxes), 4), np.float32)
    labels = truth.labels[index] if len(truth) else np.zeros(len(boxes), np.int64)
    return Rows(boxes, truth, len(own), near, goals, labels)


def svm_targets(rows: Rows, classes: int, negative: float) -> Tensor:
    """What each row is to the SVM of each class: [K, R] int8, 1 positive, −1 negative, 0 neither.

    Positives are the objects themselves. A negative overlaps every object of the class by less than `negative`, or by
    a smaller share of itself where the object is to be ignored.
    """
    boxes, truth = torch.from_numpy(rows.boxes), torch.from_numpy(rows.truth.boxes)
    shared = box_ops.iou(boxes, truth)  # [R, G]
    ignored = torch.from_numpy(rows.truth.ignore)
    shared = torch.where(ignored, torch.maximum(shared, box_ops.covered(boxes, truth)), shared)
    targets = torch.full((classes, len(boxes)), -1, dtype=torch.int8)
    for label in np.unique(rows.truth.labels).tolist():
        of_class = torch.from_numpy(rows.truth.labels == label)
        targets[label, (shared[:, of_class] >= negative).any(1)] = 0
    own = torch.from_numpy(rows.truth.labels[~rows.truth.ignore])
    targets[own, torch.arange(rows.objects)] = 1
    return targets


def extract_features(job: Job) -> None:
    """Stores fc7 of every training region, and pool5 of those near an object; says their size before it begins."""
    stored_features(job)


def fit_svms(job: Job) -> None:
    """Fits the SVM of every class: all objects against the hard negatives of one pass over the images."""
    files = stored_features(job)
    options, svm, classes = job.model.options.svm, _fitted(job.model).svm, len(job.model.classes)
    svm.set_norm(_mean_norm(files.fc7, len(files.done)))
    mining = HardNegativeMining(
        svm,
        C=options.C,
        positive_weight=options.positive_weight,
        bias_scale=options.bias_scale,
        loss=options.loss,
        hard=options.hard,
        evict=options.evict,
        retrain=options.retrain,
    )
    saved = _Saved(job, files.layout.key, options)
    state = saved.load()
    if state:
        mining.load_state_dict(state["mining"])
    else:
        for image, rows in _all_rows(job):
            objects = svm_targets(rows, classes, options.negative)[:, : rows.objects].clamp(min=0)
            mining.add(_tensor(files.fc7(image)[: rows.objects]), objects)
    images = len(files.done)
    for image in range(state.get("image", 0), images):
        job.progress(image, images)
        regions = svm_targets(rows_of(job, image), classes, options.negative).clamp(max=0)
        mining.add(_tensor(files.fc7(image)), regions)
        if saved.old:
            saved.save(image=image + 1, mining=mining.state_dict())
    mining.finish()
    job.progress(images, images)
    saved.remove()


def fit_boxes(job: Job) -> None:
    """Fits the box regressor of every class to the regions that overlap an object of it enough."""
    files = stored_features(job)
    options, ridge, classes = job.model.options.ridge, _fitted(job.model).ridge, len(job.model.classes)
    labels, goals = [], []  # [r] and [r, 4] of each image's stored rows
    for _, rows in _all_rows(job):
        boxes, objects = (torch.from_numpy(part[rows.near]) for part in (rows.boxes, rows.goals))
        labels.append(rows.labels[rows.near])
        goals.append(CODER.encode(objects, boxes))
    ridge.set_norm(_mean_norm(files.pool5, len(files.done)))
    saved = _Saved(job, files.layout.key, options)
    state = saved.load()
    if state:
        ridge.load_state_dict(state["ridge"])
    for label in range(state.get("label", 0), classes):
        job.progress(label, classes)
        sums = RidgeSums(files.layout.pool5_width)
        for image, of_image in enumerate(labels):
            own = np.flatnonzero(of_image == label)
            if len(own):
                sums.add(_tensor(files.pool5(image)[own]).to(ridge.weight.device) * ridge.scale, goals[image][own])
        ridge.take(label, sums, options.strength)
        if saved.old:
            saved.save(label=label + 1, ridge=ridge.state_dict())
    job.progress(classes, classes)
    saved.remove()


class _Saved:
    """How far a fit has come, in its stage's folder; good for one key of features and one choice of settings."""

    def __init__(self, job: Job, key: str, options: Any) -> None:
        self.path = job.folder / "fit.pt"
        self.key = f"{key} {to_mapping(options)}"
        self.saved = time.monotonic()

    @property
    def old(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= SAVE_EVERY

    def load(self) -> dict[str, Any]:
        """What was saved last; empty where there is nothing that fits."""
        with suppress(Exception):  # a damaged state is as good as none
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["key"] == self.key:
                return state
        return {}

    def save(self, **state: Any) -> None:
        """Keeps the state in place of the last one."""
        with writing(self.path) as beside:
            torch.save({"key": self.key, **state}, beside)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """All is fitted."""
        self.path.unlink(missing_ok=True)


def stored_features(job: Job) -> FeatureFiles:
    """The features of the training set by the job's model as it is now; those that are missing are made first."""
    folder = job.earlier("features")
    layout = layout_of(job)
    if not holds(folder, layout):
        job.say(f"{layout} on disk, in '{folder}'")
    files = FeatureFiles(folder, layout)
    missing = np.flatnonzero(~files.done).tolist()
    for image in missing:
        job.progress(int(files.done.sum()), len(files.done))
        rows = rows_of(job, image)
        pool5, fc7 = region_features(job.model, job.train_set.image(image), rows.boxes)
        near = torch.from_numpy(rows.near).to(pool5.device)
        pool5 = pool5[near] if layout.pool5_width else pool5[:0, :0]
        files.write(image, fc7.cpu().numpy(), pool5.cpu().numpy())
    if missing:
        job.progress(len(files.done), len(files.done))
    return files


def region_features(model: Detector, pixels: np.ndarray, boxes: np.ndarray) -> tuple[Tensor, Tensor]:
    """pool5 [R, F] and fc7 [R, D] of boxes [R, 4] in an image [H, W, 3], as the model sees them when it detects."""
    image = resize(pixels, *model.detection_size)
    (h0, w0), (h1, w1) = pixels.shape[:2], image.shape[1:]
    scaled = boxes * np.array([w1 / w0, h1 / h0, w1 / w0, h1 / h0], np.float32)
    nothing = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, bool), [])
    batch = collate([image], [nothing], regions=[scaled]).to(model.device)
    with evaluating(model), torch.inference_mode(), model.autocast():
        pool5, fc7 = _fitted(model).region_features(batch.images, batch.proposals)
    return pool5.float(), fc7.float()


def layout_of(job: Job) -> Layout:
    """What the features of the job's model, regions and data are."""
    model, dataset = job.model, job.train_set
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([model.system, model.classes, model.precision, _settings(model)]).encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(FITTED):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    counts = np.zeros((2, len(dataset)), np.int64)
    for image, rows in _all_rows(job):
        counts[:, image] = len(rows.boxes), rows.near.sum()
        path = dataset.path(image)
        digest.update(f"{dataset.name(image)} {_state(path) if path else ''}".encode())
        for part in (rows.boxes, rows.near, rows.truth.boxes, rows.truth.labels, rows.truth.ignore):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    pool5, fc7 = region_features(model, np.zeros((64, 64, 3), np.uint8), np.array([[0, 0, 64, 64]], np.float32))
    width = pool5.shape[1] if getattr(model, "ridge", None) is not None else 0
    return Layout(digest.hexdigest(), counts[0], counts[1], fc7.shape[1], width, model.options.svm.stored)


def _settings(model: Detector) -> dict[str, Any]:
    """The settings that the features depend on."""
    kept = {key: value for key, value in to_mapping(model.options).items() if key not in LATER}
    return {**kept, "stored": model.options.svm.stored}


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change of an image file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _all_rows(job: Job) -> Iterator[tuple[int, Rows]]:
    """Every training image with its rows."""
    for image in range(len(job.train_set)):
        job.pause()
        yield image, rows_of(job, image)


def _mean_norm(features: Callable[[int], np.ndarray], images: int) -> float:
    """Mean norm of features, over images spread evenly through the data set."""
    chosen = np.unique(np.linspace(0, images - 1, NORM_IMAGES).round().astype(int)).tolist()
    norms = np.concatenate([np.linalg.norm(features(image), axis=1) for image in chosen])
    return float(norms.mean()) if len(norms) else 1.0


def _tensor(features: np.ndarray) -> Tensor:
    return torch.from_numpy(features)
