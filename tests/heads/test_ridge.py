"""Ridge regressors against numpy, scikit-learn and the published recipe written out."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from rcnn.boxes import BoxCoder
from rcnn.errors import RCNNError
from rcnn.heads import ridge
from rcnn.heads.ridge import RidgeBoxes, RidgeSums


def problem(regions, features=30, seed=0):
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(regions, features)), 0)
    goals = 0.1 * x @ rng.normal(size=(features, 4)) + 0.3 * rng.normal(size=(regions, 4)) + [0.1, -0.2, 0.4, 0]
    return torch.from_numpy(20 * x).float(), torch.from_numpy(goals).float()


def published(x, goals, strength):
    """R-CNN's steps: a constant feature, centred and whitened targets, one system a target; whitening reverted."""
    x, goals = np.c_[x.double().numpy(), np.ones(len(x))], goals.double().numpy()
    mean = goals.mean(0)
    centred = goals - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    whiten = vectors @ np.diag(1 / np.sqrt(values + 0.001)) @ vectors.T
    unwhiten = vectors @ np.diag(np.sqrt(values + 0.001)) @ vectors.T
    white = centred @ whiten
    left = x.T @ x + strength * np.eye(x.shape[1])
    beta = np.stack([np.linalg.solve(left, x.T @ white[:, i]) for i in range(4)], 1)
    return lambda rows: np.c_[rows, np.ones(len(rows))] @ beta @ unwhiten + mean


@pytest.mark.parametrize("regions", [1, 7, 30, 31, 200], ids=lambda n: f"{n} regions of 30 features")
@pytest.mark.parametrize("strength", [1000.0, 10.0])
def test_predictions_are_those_of_the_published_recipe(regions, strength):
    x, goals = problem(regions)
    weight, bias = ridge.fit(x, goals, strength=strength)
    rows = problem(20, seed=1)[0]
    expected = published(x, goals, strength)(rows.numpy())
    assert np.allclose((rows @ weight.T + bias).numpy(), expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("regions", [10, 200])
def test_weights_are_scikit_learns_when_the_constant_is_a_feature(regions):
    x, goals = problem(regions)
    weight, bias = ridge.fit(x, goals)
    mean = goals.mean(0)
    model = Ridge(alpha=ridge.STRENGTH, fit_intercept=False, solver="cholesky")
    model.fit(np.c_[x.double().numpy(), np.ones(regions)], (goals - mean).double().numpy())
    assert np.allclose(weight.numpy(), model.coef_[:, :-1], atol=1e-6)
    assert np.allclose((bias - mean).numpy(), model.coef_[:, -1], atol=1e-6)


def test_no_penalty_is_least_squares():
    x, goals = problem(300)
    weight, bias = ridge.fit(x, goals, strength=1e-9)
    # The mean is taken off first and the constant may take up any rest, so this is ordinary least squares.
    expected = np.linalg.lstsq(np.c_[x.double().numpy(), np.ones(300)], goals.double().numpy(), rcond=None)[0]
    assert np.allclose(weight.numpy(), expected[:-1].T, atol=1e-4)
    assert np.allclose(bias.numpy(), expected[-1], atol=1e-4)


def test_the_penalty_is_on_the_sum_so_twice_the_data_want_twice_of_it():
    x, goals = problem(100)
    once = ridge.fit(x, goals, strength=1000)
    twice = ridge.fit(torch.cat((x, x)), torch.cat((goals, goals)), strength=2000)
    assert torch.allclose(once[0], twice[0], atol=1e-6)


@pytest.mark.parametrize("regions", [20, 31, 90], ids=["dual", "as many as unknowns", "sums"])
def test_image_by_image_is_the_same_as_all_at_once(regions):
    x, goals = problem(regions)
    sums = RidgeSums(30)
    for part in torch.arange(regions).split(8):
        sums.add(x[part], goals[part])
    assert sums.count == regions
    for a, b in zip(sums.solve(), ridge.fit(x, goals), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_few_and_many_regions_meet_where_the_dual_form_ends(monkeypatch):
    x, goals = problem(30)
    dual = ridge.fit(x, goals)
    sums = RidgeSums(30)
    sums.add(x, goals)
    sums._sum_up()
    for a, b in zip(dual, sums.solve(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_class_without_regions_moves_no_box():
    boxes = RidgeBoxes(5, 2)
    boxes.take(1, RidgeSums(5))
    given = torch.tensor([[1.0, 2, 11, 22], [0, 0, 5, 5]])
    assert torch.allclose(boxes(torch.randn(2, 5), given), given[:, None].expand(-1, 2, -1))


def test_what_is_not_finite_is_refused():
    x, goals = problem(10)
    goals[2, 1] = float("inf")
    with pytest.raises(RCNNError, match="not finite"):
        ridge.fit(x, goals)


def test_regressors_move_boxes_to_where_they_learnt_to():
    rng = torch.Generator().manual_seed(0)
    features = torch.rand(400, 6, generator=rng)
    boxes = torch.rand(400, 2, generator=rng).repeat(1, 2) * 50
    boxes[:, 2:] += 20 + 30 * torch.rand(400, 2, generator=rng)
    deltas = features @ torch.randn(6, 4, generator=rng) * 0.1
    model, coder = RidgeBoxes(6, 3), BoxCoder()
    goals = coder.encode(coder.decode(deltas, boxes), boxes)
    model.set_norm(features.norm(dim=1).mean().item())
    sums = RidgeSums(6)
    sums.add(features * model.scale, goals)
    model.take(1, sums, strength=1e-3)
    moved = model(features, boxes)
    assert moved.shape == (400, 3, 4)
    assert torch.allclose(moved[:, 1], coder.decode(deltas, boxes), atol=0.01)
    assert torch.allclose(moved[:, 0], boxes, atol=1e-4)
