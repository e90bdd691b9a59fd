from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.report.charts import HEIGHT, POINTS, WIDTH, Series, line_chart, number, smoothed, ticks


def points_of(svg):
    """The corners of each path of a chart."""
    tree = ET.fromstring(str(svg))
    return [np.array([pair.split() for pair in path.get("d")[1:].split("L")], float) for path in tree.iter("path")]


def test_a_chart_is_well_formed_and_stays_on_its_canvas():
    x = np.arange(5000.0)
    svg = line_chart([Series("a", x, np.sin(x) * 9), Series("b", x[:1], x[:1], "ink")], title="t", x_label="step")
    wide, single = points_of(svg)
    assert len(wide) == POINTS
    assert len(single) == 1
    assert (wide >= 0).all()
    assert (wide[:, 0] <= WIDTH).all()
    assert (wide[:, 1] <= HEIGHT).all()


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    (line,) = points_of(line_chart([Series("a", np.array([1, 2, 3]), np.array([1, 5, 9]))], title="", x_label=""))
    assert (np.diff(line[:, 0]) > 0).all()
    assert (np.diff(line[:, 1]) < 0).all()


def test_names_are_escaped():
    svg = line_chart(
        [Series("<script>alert(1)</script>", np.arange(3.0), np.arange(3.0))], title='"><b>', x_label="<i>"
    )
    assert "<script" not in svg
    assert "<b>" not in svg
    assert "<i>" not in svg
    ET.fromstring(str(svg))


def test_values_are_shown_on_hovering():
    svg = line_chart([Series("AP", np.array([100.0, 200]), np.array([0.25, 0.5]))], title="", x_label="step")
    titles = [t.text for t in ET.fromstring(str(svg)).iter("title")]
    assert "AP\nstep 200: 0.5" in titles


def test_no_points_no_chart():
    assert line_chart([Series("a", np.zeros(0), np.zeros(0))], title="", x_label="") == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    high = low + span
    values = ticks(low, high)
    assert len(values) <= 7
    if span > 1e-6 * abs(low):
        assert len(values) >= 2
        step = values[1] - values[0]
        assert low - 1e-6 * step <= values[0]
        assert values[-1] <= high + 1e-6 * step
        assert f"{step:.6e}"[:4] in ("1.00", "2.00", "2.50", "5.00") or abs(low) / span > 1e4


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12000, "12,000"), (0.85, "0.85"), (0.00025, "0.00025"), (2e-7, "2e-7"), (-3, "-3")]
)
def test_numbers_are_said_shortly(value, text):
    assert number(value) == text


def test_smoothing_is_the_mean_of_the_neighbours_and_moves_nothing():
    values = np.random.default_rng(0).normal(size=50)
    slow = [np.mean(values[max(i - 3, 0) : i + 4]) for i in range(50)]
    np.testing.assert_allclose(smoothed(values, 7), slow)
    line = np.arange(50.0)
    np.testing.assert_allclose(smoothed(line, 7)[3:-3], line[3:-3])
