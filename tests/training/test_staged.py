"""FCN's stages: 32s → 16s → 8s, each from what the one before it left, at the papers' rates in the classic recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rcnn.errors import UserError
from rcnn.training.recipe import resolve
from rcnn.training.schemes import Budget, SchemeSettings, scheme_of


def stages_of(system, scheme, **plan):
    _, make = scheme_of(system, scheme)
    return make(Budget(steps=10, lr=1e-10, plan=SchemeSettings(**plan)))


def test_the_stages_go_from_deep_to_shallow():
    stages = stages_of("fcn-8s/vgg16", "staged", gamma=0.01)
    assert [stage.name for stage in stages] == ["32s", "16s", "8s"]
    assert [stage.parts for stage in stages] == [("32s",), ("16s",), ("8s",)]
    assert [stage.lr for stage in stages] == pytest.approx([1e-10, 1e-12, 1e-14], rel=1e-9)
    trained = [set(stage.trains) for stage in stages]
    assert trained[0] < trained[1] < trained[2]
    assert "head.levels.8.*" in trained[2] - trained[1]
    assert [stage.name for stage in stages_of("fcn-16s/vgg16", "staged")] == ["32s", "16s"]


def test_at_once_is_one_stage_of_everything():
    for system in ("fcn-32s", "fcn-16s", "fcn-8s"):
        (stage,) = stages_of(f"{system}/resnet18", None)
        assert (stage.name, stage.trains) == ("at-once", ("*",))
    with pytest.raises(UserError, match="fcn-32s has no scheme 'staged'"):
        scheme_of("fcn-32s/resnet18", "staged")


@pytest.mark.parametrize("scheme", ["at-once", "staged"])
def test_a_random_start_learns_the_classes_first(scheme):
    _, make = scheme_of("fcn-8s/resnet18", scheme)
    budget = Budget(steps=10, lr=0.1)
    first, *rest = make(replace(budget, random_start=True))
    assert (first.name, first.parts, first.steps, first.evaluated) == ("pretrain", ("pretrain",), 10, False)
    assert first.trains == ("backbone.*", "head.levels.32.*"), "finer levels begin at zero after it"
    assert rest == make(budget)
    plan = SchemeSettings(pretrain_lr=0.3, pretrain_steps=0.25)
    slower, *others = make(replace(budget, random_start=True, plan=plan))
    assert (slower.lr, slower.steps, others) == (pytest.approx(0.03), 2, rest)


@pytest.mark.parametrize("system", ["rcnn/resnet18", "sppnet/resnet18"])
def test_the_rate_and_length_of_pretraining_are_the_plans(system):
    _, make = scheme_of(system, None)
    plan = SchemeSettings(pretrain_lr=0.3, pretrain_steps=2.0)
    names = {stage.name: stage for stage in make(Budget(steps=10, lr=0.1, random_start=True, plan=plan))}
    assert (names["pretrain"].lr, names["pretrain"].steps) == (pytest.approx(0.03), 20)
    assert (names["finetune"].lr, names["finetune"].steps) == (0.1, 10)


def test_classic_has_the_papers_numbers():
    recipe = resolve([{"system": "fcn-8s/vgg16", "recipe": "classic", "data": {"path": "digits"}}])
    train = recipe.train
    assert (train.lr, train.momentum, train.weight_decay, train.batch_size) == (1e-10, 0.99, 0.0005, 1)
    assert (train.bias_lr, train.bias_decay, train.schedule) == (2.0, False, "constant")
    staged = {"system": "fcn-8s/vgg16", "recipe": "classic", "scheme": "staged", "data": {"path": "digits"}}
    assert resolve([staged]).model == {"head": {"skip_scales": [1.0, 1.0]}}, "nothing is scaled where stages follow"
    assert resolve([staged]).train.plan.gamma == 0.01
    with pytest.raises(UserError, match=r"train\.plan\.gamma = -1"):
        resolve([staged, {"train": {"plan": {"gamma": -1.0}}}])
