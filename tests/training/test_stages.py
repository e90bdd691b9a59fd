from __future__ import annotations

from functools import partial
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rcnn.detectors import create
from rcnn.errors import RCNNError, UserError
from rcnn.structures import Batch, GroundTruth, ImageBatch
from rcnn.training import plan, train
from rcnn.training.schemes import SCHEMES, Budget, scheme_of
from rcnn.training.stages import Learn, Work, release
from rcnn.training.step import FiniteGuard

SYSTEM = "tiny/net"


@pytest.fixture
def two_stages(tiny, monkeypatch):
    """A scheme of two stages, for the body and then for the scores."""

    def scheme(budget):
        learn = partial(Learn, steps=budget.steps, lr=budget.lr)
        return [learn(name="body", trains=("body.*", "norm.*")), learn(name="score", trains=("score.*",))]

    monkeypatch.setitem(SCHEMES["tiny"], "two", scheme)


def last(run):
    return load_file(run / "last" / "model.safetensors")


def test_a_stage_trains_what_it_names_and_never_what_the_model_froze(tiny_module):
    model = tiny_module.Tiny(("a",), tiny_module.TinyOptions())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    release(model, Learn(name="x", trains=("*",), steps=1, lr=0.1), trainable)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    release(model, Learn(name="x", trains=("score.*", "frozen.*"), steps=1, lr=0.1), trainable)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"score.weight", "score.bias"}
    with pytest.raises(UserError, match=r"stage x: there is nothing to train in scores\.\*"):
        release(model, Learn(name="x", trains=("scores.*",), steps=1, lr=0.1), trainable)


def test_trying_a_step_costs_what_its_stage_trains_and_leaves_the_model_as_it_was(tiny_module, monkeypatch):
    model = tiny_module.Tiny(("a",), tiny_module.TinyOptions())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt = []
    whole = plan.total_loss

    def total_loss(losses):
        learnt.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
        return whole(losses)

    monkeypatch.setattr(plan, "total_loss", total_loss)
    none = torch.zeros(1, 1, 4), torch.full((1, 1), -1), torch.zeros(1, 1, dtype=torch.bool)
    images = ImageBatch(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8), torch.tensor([[32.0, 32.0]]))
    batch = Batch(images, GroundTruth(*none))
    plan.try_step(model, batch, Learn(name="x", trains=("score.*",), steps=1, lr=0.1))
    assert learnt
    assert all(names == {"score.weight", "score.bias"} for names in learnt)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process forget its peak")
def test_memory_is_that_of_the_step_and_not_of_earlier_work():
    plan._forget_peak()
    before = plan._peak()
    with mmap(-1, 4 * 10**8) as held:  # not of the allocator, which may have room left and may keep what it gets
        np.frombuffer(held, np.uint8)[:] = 1
        assert plan._peak() - before > 3.9e8
    plan._forget_peak()
    assert plan._peak() - before < 2e8


def test_a_system_may_do_without_some_of_the_layers_that_a_stage_names():
    model = create("sppnet/resnet18", ["cat"], settings={"hidden": [], "spp": {"levels": [2, 1]}})
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    _, make = scheme_of("sppnet/resnet18", None)
    (finetune,) = [stage for stage in make(Budget(steps=1, lr=0.1)) if stage.name == "finetune"]
    release(model, finetune, trainable)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"cls_score.weight", "cls_score.bias"}


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


@pytest.mark.parametrize("passes", [6 + 2, 6 + 4 + 1])  # three passes try a step of each stage
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


@pytest.fixture
def with_work(tiny, monkeypatch):
    """A scheme that counts to six in a folder of its own, writes the sum into the model, and can be cut short."""
    limit = {"at": None}

    def count(job):
        place = job.folder / "count.txt"
        for number in range(int(place.read_text()) if place.exists() else 0, 6):
            if number == limit["at"]:
                raise RCNNError("the disk is full")
            place.write_text(str(number + 1))
            job.progress(number + 1, 6)
        with torch.no_grad():
            job.model.score.bias.fill_(float(place.read_text()))

    def scheme(budget):
        body = Learn(name="body", trains=("body.*",), steps=budget.steps, lr=budget.lr, evaluated=False)
        return [body, Work(name="count", what="counts", run=count, evaluated=True)]

    monkeypatch.setitem(SCHEMES["tiny"], "work", scheme)
    return limit


def test_a_stage_of_work_goes_on_where_it_was_cut_short(with_work, squares, tmp_path):
    whole = train(SYSTEM, squares, out=tmp_path / "whole", scheme="work", steps=4)
    assert [row["stage"] for row in whole.history] == ["count"]  # the first stage's model is not worth judging
    assert last(whole.run)["score.bias"].tolist() == [6, 6]
    assert "what = 'counts'" in whole.run.joinpath("recipe.toml").read_text().replace('"', "'")
    with_work["at"] = 4
    with pytest.raises(RCNNError, match="disk is full"):
        train(SYSTEM, squares, out=tmp_path / "run", scheme="work", steps=4)
    assert (tmp_path / "run" / "stages" / "count" / "count.txt").read_text() == "4"
    with_work["at"] = 0  # a second count from the start would be seen
    result = train(out=tmp_path / "run", resume=True)
    for name, value in last(whole.run).items():
        assert torch.equal(value, last(result.run)[name]), name


def test_where_figures_come_late_the_guard_still_names_the_first_bad_step():
    guard = FiniteGuard(torch.device("cpu"))
    guard.at_once = False  # as on a GPU
    for step, figure in enumerate([1.0, float("inf"), float("nan"), 2.0]):
        guard.watch(step, torch.tensor(figure), [f"{step}.png"])
    with pytest.raises(RCNNError, match=r"loss of step 2 is not finite, with the images 1\.png;"):
        guard.check()
