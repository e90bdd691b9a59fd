from __future__ import annotations

import pytest
import torch
from torch import nn

from rcnn.errors import UserError
from rcnn.training.ema import EMA
from rcnn.training.optim import parameter_groups, set_lr, sgd


def net():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    return model


def settings_by_name(model, **options):
    """Name → (factor of the rate, weight decay), as the groups give them."""
    groups = parameter_groups(model, weight_decay=0.1, **options)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (g["lr_factor"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_every_parameter_that_trains_is_in_one_group_and_frozen_ones_in_none():
    groups = parameter_groups(net(), weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == 5
    assert "0.weight" not in settings_by_name(net())


def test_caffes_rule_gives_biases_twice_the_rate_and_no_decay_but_not_those_of_norms():
    assert settings_by_name(net(), bias_lr=2, bias_decay=False) == {
        "0.bias": (2, 0),
        "1.weight": (1, 0.1),
        "1.bias": (1, 0.1),
        "2.weight": (1, 0.1),
        "2.bias": (2, 0),
    }


def test_norms_can_be_spared_decay():
    by_name = settings_by_name(net(), norm_decay=False)
    assert by_name["1.weight"] == by_name["1.bias"] == (1, 0)
    assert by_name["2.bias"] == (1, 0.1)


def test_patterns_multiply_the_rate_and_one_that_fits_nothing_is_refused():
    by_name = settings_by_name(net(), lr_multipliers=[("2.*", 0.5), ("*.bias", 0.5)])
    assert by_name["2.bias"][0] == 0.25
    assert by_name["0.bias"][0] == 0.5
    with pytest.raises(UserError, match=r"'2\.wieght' fits no parameter; did you mean '2\.weight'"):
        parameter_groups(net(), weight_decay=0, lr_multipliers=[("2.wieght", 0.5)])


def test_a_step_moves_weights_as_the_formula_says():
    weight, bias = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([1.0]))
    model = nn.ParameterDict({"weight": weight, "bias": bias})
    optimizer = sgd(parameter_groups(model, weight_decay=0.1, bias_lr=2, bias_decay=False), lr=1, momentum=0.9)
    moved, velocity = 2.0, 0.0
    for step in range(3):
        set_lr(optimizer, 0.1 * (step + 1))
        optimizer.zero_grad()
        (3 * weight + bias).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + 3 + 0.1 * moved
        moved -= 0.1 * (step + 1) * velocity
    assert weight.item() == pytest.approx(moved)
    assert bias.item() == pytest.approx(1 - 2 * (0.1 * 1 + 0.2 * 1.9 + 0.3 * 2.71))


def test_average_of_weights_follows_its_recursion_and_is_applied_only_within_the_block():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema, expected = EMA(model, 0.5), 1.0
    for step in range(8):
        model.weight.data.fill_(float(step))
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with ema.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 7.0


def test_average_survives_an_error_within_the_block():
    model = nn.Linear(1, 1)
    ema = EMA(model, 0.9)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="x"), ema.applied(model):
        raise ValueError("x")
    assert torch.equal(model.weight, before)
