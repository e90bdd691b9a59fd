"""Features, SVMs and box regressors of a data set: what is fitted to what, and that stages go on where they stopped."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rcnn
from rcnn.boxes import BoxCoder, iou
from rcnn.data import open_dataset
from rcnn.data.dataset import Truth
from rcnn.heads import ridge as ridges
from rcnn.heads import svm as svms
from rcnn.training import fitting
from rcnn.training.fitting import Rows

SETTINGS = {"image_size": [48, 96], "warp": {"size": 32}, "svm": {"retrain": 20}}
SYSTEM = "rcnn/squeezenet"


class Stop(Exception):
    pass


def regions_of(dataset, index):
    """Regions [N, 4] that are a function of the index: around the objects, and anywhere."""
    random = np.random.default_rng(index)
    near = [box + random.uniform(-3, 3, 4) for box in dataset.truth(index).boxes for _ in range(5)]
    corner = random.uniform(0, 25, (6, 2))
    anywhere = np.concatenate((corner, corner + random.uniform(8, 20, (6, 2))), 1)
    return np.clip(np.concatenate((np.array(near).reshape(-1, 4), anywhere)), 0, 48).astype(np.float32)


@pytest.fixture
def job(squares, tmp_path):
    """A job on the squares; `stops` makes it stop at so many calls of `progress`."""
    torch.manual_seed(0)
    dataset = open_dataset(squares, "train")
    model = rcnn.create(SYSTEM, dataset.classes, settings=SETTINGS).eval()
    made = SimpleNamespace(model=model, train_set=dataset, regions=regions_of, calls=0, stops=-1, said=[])

    def progress(done, total):
        made.calls += 1
        if made.calls == made.stops:
            raise Stop

    made.progress, made.pause, made.say = progress, lambda: None, made.said.append
    made.earlier = lambda name: tmp_path / name
    made.folder = tmp_path / "stage"
    made.folder.mkdir()
    return made


def test_positives_are_objects_and_negatives_overlap_none_of_their_class():
    truth = Truth(
        np.array([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60]], np.float32),
        np.array([0, 1, 0]),
        np.array([False, False, True]),
        np.zeros(3, bool),
        [None] * 3,
    )
    boxes = np.array(
        [
            [0, 0, 20, 20],  # the objects
            [40, 0, 60, 20],
            [0, 0, 20, 10],  # half of the first
            [0, 0, 20, 5],  # a quarter of it
            [0, 40, 20, 60],  # the one to be ignored
            [0, 40, 5, 45],  # within it
            [70, 70, 90, 90],
        ],
        np.float32,
    )
    rows = Rows(boxes, truth, 2, np.zeros(7, bool), np.zeros((7, 4)), np.zeros(7))
    assert fitting.svm_targets(rows, 3, 0.3).tolist() == [
        [1, -1, 0, -1, 0, 0, -1],
        [-1, 1, -1, -1, -1, -1, -1],
        [-1, -1, -1, -1, -1, -1, -1],
    ]


def test_stored_features_are_those_of_the_model(job):
    fitting.extract_features(job)
    files = fitting.stored_features(job)
    assert "GiB" in job.said[0]
    with torch.no_grad():
        for i in range(len(job.train_set)):
            rows = fitting.rows_of(job, i)
            expected = np.concatenate((job.train_set.truth(i).boxes, regions_of(job.train_set, i)))
            np.testing.assert_array_equal(rows.boxes, expected.astype(np.float32))
            image = torch.from_numpy(job.train_set.image(i)).permute(2, 0, 1)
            pool5, fc7 = job.model.crop_features(job.model.crops_of(image, torch.from_numpy(rows.boxes)))
            np.testing.assert_allclose(files.fc7(i), fc7, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(files.pool5(i), pool5[torch.from_numpy(rows.near)], rtol=1e-3, atol=1e-4)


def test_box_regression_learns_from_regions_near_an_object_alone(job):
    for i in range(len(job.train_set)):
        rows = fitting.rows_of(job, i)
        boxes, truth = torch.from_numpy(rows.boxes), torch.from_numpy(job.train_set.truth(i).boxes)
        overlap = iou(boxes, truth).amax(1) if len(truth) else torch.zeros(len(boxes))
        near = (overlap > 0.6).numpy()
        near[: len(truth)] = False
        np.testing.assert_array_equal(rows.near, near)
    assert sum(fitting.rows_of(job, i).near.sum() for i in range(len(job.train_set))) > 10


def test_extraction_goes_on_where_it_stopped(job, monkeypatch):
    made = []
    original = fitting.region_features
    monkeypatch.setattr(fitting, "region_features", lambda *given: made.append(1) or original(*given))
    job.stops = 4
    with pytest.raises(Stop):
        fitting.extract_features(job)
    first = len(made)
    job.calls, job.stops = 0, -1
    fitting.extract_features(job)
    probes = 2  # one for the width of the features, each time
    assert first - 1 == 3
    assert len(made) - probes == len(job.train_set)


@pytest.mark.parametrize("changed", ["weights", "regions", "settings", "truth"])
def test_features_of_something_else_are_never_served(job, changed):
    fitting.extract_features(job)
    before = fitting.layout_of(job).key
    files = fitting.stored_features(job)
    kept = [files.fc7(i) for i in range(len(files.done))]
    assert fitting.layout_of(job).key == before
    if changed == "weights":
        with torch.no_grad():
            next(job.model.backbone.parameters()).add_(0.01)
    elif changed == "regions":
        job.regions = lambda dataset, i: regions_of(dataset, i)[::-1]
    elif changed == "settings":
        other = rcnn.create(SYSTEM, job.train_set.classes, settings={**SETTINGS, "warp": {"size": 40}})
        other.load_state_dict(job.model.state_dict())
        job.model = other.eval()
    else:
        index = job.train_set.index
        job.train_set.index = type(index)(**{**vars(index), "boxes": np.array(index.boxes) * 0.9})
    assert fitting.layout_of(job).key != before
    again = fitting.stored_features(job)
    assert any(
        a.shape != b.shape or not np.allclose(a, b) for a, b in zip(kept, map(again.fc7, range(10)), strict=True)
    )


def test_what_is_fitted_later_does_not_make_features_stale(job):
    before = fitting.layout_of(job).key
    job.model.svm.weight.add_(1)
    job.model.ridge.weight.add_(1)
    assert fitting.layout_of(job).key == before


def test_svms_have_the_objective_of_a_fit_to_everything(job):
    """With so few regions nothing is left out but what is easy, so mining ends where a fit to all regions does."""
    fitting.fit_svms(job)
    files = fitting.stored_features(job)
    features, targets = [], []
    for i in range(len(job.train_set)):
        features.append(torch.from_numpy(files.fc7(i)) * job.model.svm.scale)
        targets.append(fitting.svm_targets(fitting.rows_of(job, i), 2, 0.3))
    x, y = torch.cat(features), torch.cat(targets, 1)
    weight, bias = svms.fit(x, y, loss="hinge")

    def objective(w, b, k):
        used = y[k] != 0
        cost = torch.where(y[k][used] > 0, 2.0, 1.0) * 1e-3
        margin = 1 - y[k][used] * (x[used] @ w[k] + b[k])
        return (0.5 * (w[k].square().sum() + (b[k] / 10) ** 2) + (cost * margin.clamp(min=0)).sum()).item()

    for k in range(2):
        assert objective(job.model.svm.weight, job.model.svm.bias, k) <= objective(weight, bias, k) * 1.05
    norms = x.norm(dim=1)
    assert norms.mean().item() == pytest.approx(20, rel=0.02)


def test_a_stopped_fit_of_svms_ends_as_one_that_never_was(job, monkeypatch):
    fitting.fit_svms(job)
    expected = {name: value.clone() for name, value in job.model.svm.state_dict().items()}
    assert not list(job.folder.iterdir())
    for value in job.model.svm.state_dict().values():
        value.zero_()
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    job.calls, job.stops = 0, 6
    with pytest.raises(Stop):
        fitting.fit_svms(job)
    assert (job.folder / "fit.pt").exists()
    for value in job.model.svm.state_dict().values():
        value.zero_()
    job.calls, job.stops = 0, -1
    fitting.fit_svms(job)
    assert job.calls == len(job.train_set) - 5 + 1
    for name, value in job.model.svm.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_box_regressors_are_each_classes_ridge(job, monkeypatch):
    fitting.fit_boxes(job)
    files = fitting.stored_features(job)
    features, goals, labels = [], [], []
    for i in range(len(job.train_set)):
        rows = fitting.rows_of(job, i)
        features.append(torch.from_numpy(files.pool5(i)) * job.model.ridge.scale)
        boxes, objects = torch.from_numpy(rows.boxes[rows.near]), torch.from_numpy(rows.goals[rows.near])
        goals.append(BoxCoder().encode(objects, boxes))
        labels.append(torch.from_numpy(rows.labels[rows.near]))
    x, t, own = torch.cat(features), torch.cat(goals), torch.cat(labels)
    for label in range(2):
        weight, bias = ridges.fit(x[own == label], t[own == label], strength=1000.0)
        torch.testing.assert_close(job.model.ridge.weight[label], weight, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(job.model.ridge.bias[label], bias, rtol=1e-3, atol=1e-6)
    expected = job.model.ridge.weight.clone()
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    job.calls, job.stops = 0, 2
    with pytest.raises(Stop):
        fitting.fit_boxes(job)
    job.model.ridge.weight.zero_()
    job.calls, job.stops = 0, -1
    fitting.fit_boxes(job)
    torch.testing.assert_close(job.model.ridge.weight, expected)


def test_a_damaged_state_is_begun_anew(job):
    (job.folder / "fit.pt").write_bytes(b"rubbish")
    fitting.fit_svms(job)
    assert job.model.svm.weight.any()
