"""A pass of dual coordinate descent, compiled and plain: the same numbers, and each step a least value."""

import numpy as np
import pytest

from rcnn.kernels import Descent, cpu, descend, dual_descent, reference


def problem(hinge, seed=0, samples=60, features=7, classes=3):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(samples, features)).astype(np.float32)
    y = np.where(rng.random((samples, classes)) < 0.3, 1, -1).astype(np.float32)
    costs = np.where(y > 0, 0.02, 0.01).astype(np.float32)
    constant = np.float32(2)
    return Descent(
        rows,
        constant,
        (rows**2).sum(1) + constant**2,
        y,
        np.zeros_like(costs) if hinge else 0.5 / costs,
        costs if hinge else np.full_like(costs, np.inf),
        alpha=np.zeros_like(costs),
        live=rng.random(costs.shape) < 0.9,
        w=np.zeros((classes, features + 1), np.float32),
        worst=np.full(classes, np.inf, np.float32),
    )


def after(form, passes, hinge, monkeypatch, **options):
    monkeypatch.setattr(dual_descent, "array_form", lambda: form)
    one, order = problem(hinge, **options), np.random.default_rng(1)
    for _ in range(passes):
        descend(one, order.permutation(len(one.rows)), np.array([0, 2]))
    return one


@pytest.mark.parametrize("hinge", [True, False])
@pytest.mark.parametrize("passes", [1, 4])
def test_both_forms_make_the_same_pass(hinge, passes, monkeypatch):
    plain, fast = (after(form, passes, hinge, monkeypatch) for form in (reference, cpu))
    for name in ("alpha", "w", "worst"):
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(fast.live, plain.live)
    assert (plain.w[1] == 0).all(), "a class that was not named is left alone"


@pytest.mark.parametrize("form", [reference, cpu])
@pytest.mark.parametrize("hinge", [True, False])
def test_w_is_the_sum_that_it_stands_for_and_the_objective_falls(form, hinge, monkeypatch):
    values = []
    for passes in (1, 2, 6):
        one = after(form, passes, hinge, monkeypatch)
        rows = np.concatenate((one.rows, np.full((len(one.rows), 1), one.constant)), 1)
        np.testing.assert_allclose(one.w, (one.alpha * one.y).T @ rows, atol=1e-4)
        assert (one.alpha >= 0).all()
        assert (one.alpha <= one.limits).all()
        values.append(0.5 * (one.w**2).sum() + (0.5 * one.softness * one.alpha**2 - one.alpha).sum())
    assert values[0] > values[1] > values[2]
