from __future__ import annotations

import math

import pytest

from rcnn.training.schedule import factor, scaled_lr


def test_step_schedule_drops_at_each_milestone_given_as_fraction_or_step():
    at = [factor(s, 100, schedule="step", milestones=(0.5, 80)) for s in range(100)]
    assert at == pytest.approx([1.0] * 50 + [0.1] * 30 + [0.01] * 20)


def test_cosine_goes_from_one_to_nearly_zero_and_is_half_in_the_middle():
    at = [factor(s, 100, schedule="cosine") for s in range(100)]
    assert at[0] == 1
    assert at[50] == pytest.approx(0.5)
    assert at[99] == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    assert at == sorted(at, reverse=True)


def test_warm_up_rises_linearly_from_its_factor():
    at = [factor(s, 1000, schedule="constant", warmup_steps=10, warmup_factor=0.1) for s in range(12)]
    assert at == pytest.approx([0.1 + 0.09 * s for s in range(10)] + [1, 1])


def test_warm_up_takes_a_fifth_of_a_short_run_at_most():
    at = [factor(s, 20, schedule="constant", warmup_steps=100, warmup_factor=0.0) for s in range(20)]
    assert at == pytest.approx([0, 0.25, 0.5, 0.75] + [1] * 16)


def test_learning_rate_scales_with_the_images_of_a_step_unless_it_is_taken_as_it_is():
    assert scaled_lr(0.02, 16, 4) == pytest.approx(0.005)
    assert scaled_lr(0.02, 0, 4) == 0.02
