from __future__ import annotations

import torch
from PIL import Image

from rcnn.report.proposal_gradient import sweeps, write_proposal_gradient


def test_only_warping_reports_the_slope_that_its_curve_has():
    found = {sweep.name: sweep for sweep in sweeps()}
    for name in ("RoI max pooling", "RoIAlign"):
        assert not found[name].slopes.any()
        assert found[name].losses.std() > 0
    steps = found["RoI max pooling"].losses.diff().abs()
    assert (steps == 0).sum() > 0.9 * len(steps), "stairs"
    warp = found["RoI warping"]
    between = warp.losses.diff() / warp.moved.diff()
    middle = (warp.slopes[1:] + warp.slopes[:-1]) / 2
    close = (between - middle).abs() < 0.05 * middle.abs() + 1e-4
    assert close.float().mean() > 0.8, "all but where another sample becomes a bin's maximum"
    assert torch.corrcoef(torch.stack((between, middle)))[0, 1] > 0.99


def test_the_figure_is_written(tmp_path):
    with Image.open(write_proposal_gradient(tmp_path / "figure.png")) as picture:
        assert picture.width > 900
