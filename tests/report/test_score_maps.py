"""The figure of R-FCN's votes: its numbers are the network's, its colours where the maps are."""

import numpy as np
import pytest
import torch

import rcnn
from rcnn.detectors.two_stage import TwoStage
from rcnn.errors import UserError
from rcnn.report import draw_votes, votes
from rcnn.report.score_maps import Votes
from rcnn.structures import ImageBatch

SETTINGS = {
    "image_size": [64, 96],
    "anchors": {"sizes": [[16.0, 32.0]]},
    "pool": {"size": 3},
    "box": {"channels": 8, "init_std": [0.5, 0.5]},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return rcnn.create("rfcn/resnet18", ["cat", "dog"], settings=SETTINGS)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 180, 3), dtype=np.uint8)


def test_the_votes_are_those_of_the_detector(model, image):
    found = votes(model, image, [20, 30, 140, 100], 1)
    assert found.name == "dog"
    assert found.maps.shape == (3, 3, 4, 6)
    assert found.bins.mean() == pytest.approx(found.logit, abs=1e-5)
    from rcnn.data import resize

    batch = ImageBatch(resize(image, 64, 96)[None], torch.tensor([[64.0, 96.0]]))
    with torch.no_grad():
        assert isinstance(model, TwoStage)
        look = model.eval().reader(model.backbone(batch))
        box = torch.tensor([[[20.0, 30, 140, 100]]]) * torch.tensor([96 / 180, 64 / 120, 96 / 180, 64 / 120])
        output = look(box, torch.ones(1, 1, dtype=torch.bool))
    assert found.logit == pytest.approx(output.logits[0, 0, 1].item(), abs=1e-4)
    assert found.score == pytest.approx(output.logits[0, 0].softmax(-1)[1].item(), abs=1e-5)


def test_the_figure_has_a_picture_a_bin_and_is_hot_where_the_map_is():
    maps = np.zeros((2, 2, 4, 6), np.float32)
    maps[0, 1, 1, 4] = 3.0  # for the class, at the right
    maps[1, 0, 2, 1] = -3.0  # against it, at the left
    pixels = np.full((80, 120, 3), 120, np.uint8)
    found = Votes(pixels, (10.0, 10, 30, 30), "cat", maps, np.zeros((2, 2), np.float32), 0.0, 0.3)
    figure = np.asarray(draw_votes(found, cell=(120, 80)), np.int64)
    assert figure.shape == (3 * (80 + 8) + 8, 2 * (120 + 8) + 8, 3)

    def panel(row, column):
        top, left = 8 + row * 88, 8 + column * 128
        return figure[top : top + 80, left : left + 120]

    hot, cold = panel(1, 1)[30, 90], panel(2, 0)[50, 30]
    assert hot[0] > hot[2] + 50
    assert cold[2] > cold[0] + 50
    even = panel(2, 1)[60, 100]
    assert abs(even[0] - even[2]) < 10


def test_what_cannot_be_drawn_is_refused(model, image):
    with pytest.raises(UserError, match="class 2: the model has 0 to 1"):
        votes(model, image, [0, 0, 10, 10], 2)
    with pytest.raises(UserError, match="expected x1 < x2"):
        votes(model, image, [10, 0, 10, 10], 0)
    other = rcnn.create("faster-rcnn/resnet18-c4", ["cat"])
    with pytest.raises(UserError, match="faster-rcnn/resnet18-c4 has no position-sensitive maps"):
        votes(other, image, [0, 0, 10, 10], 0)
