from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from rcnn.errors import RCNNError, UserError
from rcnn.training import train
from rcnn.training.stages import SCHEMES, Stage, release
from rcnn.training.step import FiniteGuard

SYSTEM = "tiny/net"


@pytest.fixture
def two_stages(monkeypatch):
    """A scheme of two stages, for the body and then for the scores."""

    def scheme(steps, lr):
        return [Stage("body", ("body.*", "norm.*"), steps, lr), Stage("score", ("score.*",), steps, lr)]

    monkeypatch.setitem(SCHEMES, "two", scheme)


def last(run):
    return load_file(run / "last" / "model.safetensors")


def test_a_stage_trains_what_it_names_and_never_what_the_model_froze(tiny_module):
    model = tiny_module.Tiny(("a",), tiny_module.TinyOptions())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    release(model, Stage("x", ("*",), 1, 0.1), trainable)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    release(model, Stage("x", ("score.*", "frozen.*"), 1, 0.1), trainable)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"score.weight", "score.bias"}
    with pytest.raises(UserError, match=r"stage x: 'scores\.\*' fits no parameter"):
        release(model, Stage("x", ("scores.*",), 1, 0.1), trainable)


def test_stages_run_in_order_each_from_the_weights_of_the_one_before(tiny, two_stages, squares, tmp_path):
    result = train(SYSTEM, squares, out=tmp_path / "run", scheme="two", steps=4)
    assert [(row["stage"], row["step"]) for row in result.history] == [
        ("body", 3),
        ("body", 4),
        ("score", 3),
        ("score", 4),
    ]
    assert [(s.name, s.steps) for s in result.recipe.stages] == [("body", 4), ("score", 4)]
    assert (result.run / "recipe.toml").read_text().count("\n[[stages]]\n") == 2


@pytest.mark.parametrize("passes", [3 + 2, 3 + 4 + 1])
def test_a_run_resumes_in_any_stage(tiny, two_stages, squares, tmp_path, passes):
    whole = train(SYSTEM, squares, out=tmp_path / "whole", scheme="two", steps=4).run
    tiny(poison_at=passes)
    settings = {"train.checkpoint_every": 0}
    with pytest.raises(RCNNError):
        train(SYSTEM, squares, out=tmp_path / "run", scheme="two", steps=4, settings=settings)
    tiny()
    train(out=tmp_path / "run", resume=True)
    for name, value in last(whole).items():
        assert torch.equal(value, last(tmp_path / "run")[name]), name


def test_where_figures_come_late_the_guard_still_names_the_first_bad_step():
    guard = FiniteGuard(torch.device("cpu"))
    guard.at_once = False  # as on a GPU
    for step, figure in enumerate([1.0, float("inf"), float("nan"), 2.0]):
        guard.watch(step, torch.tensor(figure), [f"{step}.png"])
    with pytest.raises(RCNNError, match=r"loss of step 2 is not finite, with the images 1\.png;"):
        guard.check()
