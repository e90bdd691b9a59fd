"""The SVM solver against the objective written out and scikit-learn; hard negative mining against a loop."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from rcnn.errors import RCNNError
from rcnn.heads import svm, svm_newton
from rcnn.heads.svm import HardNegativeMining, LinearSVMs
from rcnn.heads.svm_objective import Objective
from rcnn.kernels import dual_descent, reference

C, POSITIVE_WEIGHT, BIAS_SCALE = 1e-3, 2.0, 10.0


def problem(samples=600, features=40, classes=3, seed=0, noise=1.0):
    """Features [N, D] of mean norm 20 and targets [K, N], a tenth positive, not quite separable."""
    rng = np.random.default_rng(seed)
    label = rng.integers(-7, classes, samples)
    centres = rng.normal(size=(classes, features))
    x = np.where(label[:, None] >= 0, centres[label.clip(0)], 0) + noise * rng.normal(size=(samples, features))
    x = np.maximum(x + 0.3, 0)  # as after a ReLU
    x *= 20 / np.linalg.norm(x, axis=1).mean()
    targets = np.where(label == np.arange(classes)[:, None], 1, -1).astype(np.int8)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(targets)


def slow_objective(features, target, weight, bias, loss):
    """½(|w|² + (b/s)²) + C Σ cₙ loss(1 − yₙ(w·xₙ + b)), one sample after the other."""
    total = 0.5 * (float(weight.double() @ weight.double()) + (float(bias) / BIAS_SCALE) ** 2)
    for x, y in zip(features.double(), target.tolist(), strict=True):
        if y == 0:
            continue
        error = max(0.0, 1 - y * float(x @ weight.double() + float(bias)))
        total += C * (POSITIVE_WEIGHT if y > 0 else 1.0) * (error if loss == "hinge" else error**2)
    return total


def sklearn_svm(features, target, loss):
    used = target != 0
    model = LinearSVC(
        C=C, class_weight={1: POSITIVE_WEIGHT}, intercept_scaling=BIAS_SCALE, loss=loss, tol=1e-7, max_iter=100_000
    )
    model.fit(features[used].numpy(), target[used].numpy())
    return torch.from_numpy(model.coef_[0]), torch.tensor(model.intercept_[0])


def objective_of(features, targets, loss="squared_hinge"):
    y = targets.T.float()
    return Objective(features, BIAS_SCALE, y, C * torch.where(y > 0, POSITIVE_WEIGHT, 1.0) * y.abs(), loss)


def newton_fit(features, targets, tolerance=5e-4, loss="squared_hinge"):
    """`svm.fit` as on a GPU."""
    w = svm_newton.solve(objective_of(features, targets, loss), tolerance)
    return w[:, :-1], w[:, -1] * BIAS_SCALE


@pytest.mark.parametrize(
    ("fit", "loss"), [(svm.fit, "squared_hinge"), (svm.fit, "hinge"), (newton_fit, "squared_hinge")]
)
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_the_objective_of_every_class_is_within_a_thousandth_of_scikit_learns(fit, loss, noise):
    features, targets = problem(noise=noise)
    targets[:, ::7] = 0
    weight, bias = fit(features, targets, loss=loss)
    for k, target in enumerate(targets):
        ours = slow_objective(features, target, weight[k], bias[k], loss)
        theirs = slow_objective(features, target, *sklearn_svm(features, target, loss), loss)
        assert ours <= theirs * (1 + 1e-3)


@pytest.mark.parametrize("fit", [svm.fit, newton_fit], ids=["dual", "newton"])
def test_squared_hinge_weights_are_scikit_learns(fit):
    features, targets = problem()
    weight, bias = fit(features, targets, tolerance=2e-6)
    for k, target in enumerate(targets):
        w, b = sklearn_svm(features, target, "squared_hinge")
        assert torch.allclose(weight[k].double(), w, atol=3e-4)
        assert bias[k].item() == pytest.approx(b.item(), abs=3e-3)


def test_the_result_does_not_depend_on_threads():
    features, targets = problem()
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(svm.fit(features, targets, loss="hinge"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_without_numba_the_same_objective_is_reached(loss, monkeypatch):
    features, targets = problem(samples=200)
    fast = svm.fit(features, targets, loss=loss, tolerance=1e-4)
    monkeypatch.setattr(dual_descent, "array_form", lambda: reference)
    slow = svm.fit(features, targets, loss=loss, tolerance=1e-4)
    for k, target in enumerate(targets):
        values = [slow_objective(features, target, w[k], b[k], loss) for w, b in (fast, slow)]
        assert values[0] == pytest.approx(values[1], rel=3e-4)


def test_ignored_samples_do_not_matter():
    features, targets = problem()
    targets[1, 100:] = 0
    weight, _ = svm.fit(features, targets, tolerance=2e-6)
    alone, _ = svm.fit(features[:100], targets[1:2, :100], tolerance=2e-6)
    assert torch.allclose(weight[1], alone[0], atol=1e-3)


def test_gradient_and_curvature_are_those_of_the_objective():
    features, targets = problem(samples=50, features=6)
    y = targets.T.double()
    costs = C * torch.where(y > 0, POSITIVE_WEIGHT, 1.0)
    w = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05

    def value(w):
        errors = (1 - y * (features.double() @ w[:, :-1].T + BIAS_SCALE * w[:, -1])).clamp(min=0)
        return 0.5 * w.square().sum() + (costs * errors**2).sum()

    written, point = objective_of(features, targets), w.float()
    errors = written.errors(written.scores(point))
    assert written.value(point, errors).sum().item() == pytest.approx(value(w).item(), rel=1e-5)
    gradient = torch.autograd.functional.jacobian(value, w)
    assert torch.allclose(svm_newton.gradient_of(written, point, errors).double(), gradient, atol=1e-4)
    curved = torch.autograd.functional.hvp(value, w, w)[1]
    assert torch.allclose(svm_newton.curved(written, errors, point).double(), curved, atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
@pytest.mark.parametrize("tolerance", [0.3, 1e-2])
def test_the_tolerance_bounds_the_distance_from_the_minimum(loss, tolerance):
    features, targets = problem()
    least, rough = (svm.fit(features, targets, loss=loss, tolerance=t) for t in (1e-6, tolerance))
    for k, target in enumerate(targets):
        best, value = (slow_objective(features, target, w[k], b[k], loss) for w, b in (least, rough))
        assert value <= best / (1 - tolerance) + 1e-6


@pytest.mark.parametrize("fit", [svm.fit, newton_fit], ids=["dual", "newton"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(fit, wrong):
    features, targets = problem()
    features[3, 2] = wrong
    with pytest.raises(RCNNError, match="not finite"):
        fit(features, targets)


def test_margins_are_those_of_scaled_features():
    svms = LinearSVMs(4, 2)
    features = torch.randn(5, 4)
    assert torch.equal(svms(features), torch.full((5, 2), -1.0))
    svms.set_norm(features.norm(dim=1).mean().item())
    assert (features * svms.scale).norm(dim=1).mean().item() == pytest.approx(20)
    svms.weight.normal_()
    svms.bias.normal_()
    expected = [[float(svms.weight[k] @ (x * svms.scale) + svms.bias[k]) for k in range(2)] for x in features]
    assert torch.allclose(svms(features), torch.tensor(expected), atol=1e-4)


def images_of(count=12, regions=60, seed=0):
    """Images with features [R, D] and targets [K, R] of regions; a few regions are positive or ignored."""
    features, targets = problem(samples=count * regions, features=20, seed=seed, noise=1.2)
    targets[torch.from_numpy(np.random.default_rng(seed).random(targets.shape) < 0.1) & (targets < 0)] = 0
    return list(zip(features.split(regions), targets.split(regions, 1), strict=True))


def slow_mining(images, classes, *, hard, evict, retrain):
    """R-CNN's rule, one class and one sample at a time; returns each class's classifier and remembered negatives."""
    result = []
    for k in range(classes):
        positives = [x for features, targets in images for x, t in zip(features, targets[k], strict=True) if t > 0]
        negatives, fresh, model = [], 0, None

        def train(model, negatives, positives=positives):
            x = torch.stack([*positives, *negatives])
            t = torch.tensor([1] * len(positives) + [-1] * len(negatives), dtype=torch.int8)
            weight, bias = svm.fit(x, t[None])
            kept = [x for x in negatives if float(weight[0] @ x + bias[0]) >= evict]
            return (weight, bias), kept

        for features, targets in images:
            for x, t in zip(features, targets[k], strict=True):
                if t < 0 and (model is None or float(model[0][0] @ x + model[1][0]) > hard):
                    negatives.append(x)
                    fresh += 1
            if fresh and (model is None or fresh > retrain):
                model, negatives = train(model, negatives)
                fresh = 0
        if fresh:
            model, negatives = train(model, negatives)
        result.append((model, negatives))
    return result


def mined(images, svms, stop=None, state=None, first=0, **options):
    mining = HardNegativeMining(svms, **options)
    if state is None:
        for features, targets in images:
            mining.add(features, targets.clamp(min=0))
    else:
        mining.load_state_dict(state)
    for features, targets in images[first:stop]:
        mining.add(features, targets.clamp(max=0))
    return mining


@pytest.fixture
def exact(monkeypatch):
    """Fits so exactly that no region changes sides by the order of the samples."""

    def exact_fit(features, targets, **options):
        return newton_fit(features, targets, tolerance=1e-10)

    monkeypatch.setattr(svm, "fit", exact_fit)


def test_mining_equals_the_rule_written_as_loops(exact):
    images, rule = images_of(), {"hard": -0.6, "evict": -0.8, "retrain": 25}
    svms = LinearSVMs(20, 3)
    mining = mined(images, svms, **rule)
    mining.finish()
    remembered = 0
    for k, (model, negatives) in enumerate(slow_mining(images, 3, **rule)):
        assert torch.allclose(svms.weight[k], model[0][0], atol=1e-4)
        assert svms.bias[k].item() == pytest.approx(model[1].item(), abs=1e-3)
        own = mining.state_dict()["features"][mining.state_dict()["targets"][:, k] < 0]
        assert sorted(map(tuple, own.tolist())) == sorted(tuple(x.tolist()) for x in negatives)
        remembered += len(negatives)
    positives = sum(int((targets > 0).any(0).sum()) for _, targets in images)
    assert len(mining) < remembered + positives, "a sample that several classes remember is kept once"


def test_most_negatives_of_an_easy_class_are_never_remembered():
    features, targets = problem(samples=3000, features=20, classes=1, noise=0.3)
    images = list(zip(features.split(100), targets.split(100, 1), strict=True))
    mining = mined(images, LinearSVMs(20, 1), C=0.1, retrain=50)
    remembered = (mining.state_dict()["targets"] < 0).sum()
    assert 0 < remembered < 0.25 * (targets < 0).sum()


def test_mining_goes_on_from_its_state_as_if_never_stopped(tmp_path):
    images, whole, halves = images_of(), LinearSVMs(20, 3), LinearSVMs(20, 3)
    straight = mined(images, whole, retrain=25)
    straight.finish()
    torch.save(mined(images, halves, stop=5, retrain=25).state_dict(), tmp_path / "state.pt")
    fresh = LinearSVMs(20, 3)
    rest = mined(images, fresh, state=torch.load(tmp_path / "state.pt"), first=5, retrain=25)
    rest.finish()
    assert torch.equal(whole.weight, fresh.weight)
    assert torch.equal(whole.bias, fresh.bias)
    assert len(straight) == len(rest)
    with pytest.raises(RCNNError, match="another number of classes"):
        HardNegativeMining(LinearSVMs(20, 4)).load_state_dict(rest.state_dict())


def test_a_class_that_is_never_seen_finds_nothing_and_remembers_nothing():
    images = [(features, torch.cat((targets, -targets[:1].abs()))) for features, targets in images_of()]
    svms = LinearSVMs(20, 4)
    mining = mined(images, svms)
    mining.finish()
    assert not (mining.state_dict()["targets"][:, 3] != 0).any()
    assert (svms(images[0][0])[:, 3] == -1).all()


def test_classes_are_fitted_only_when_their_turn_has_come():
    images = images_of()
    mining = HardNegativeMining(LinearSVMs(20, 3), retrain=10**9)
    for features, targets in images:
        assert not mining.add(features, targets.clamp(min=0)).any()
    assert mining.add(images[0][0], images[0][1].clamp(max=0)).all(), "the first negatives"
    assert not mining.add(images[1][0], images[1][1].clamp(max=0)).any()
