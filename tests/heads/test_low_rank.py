"""Truncated SVD of fully connected layers against numpy's SVD."""

import numpy as np
import pytest
import torch
from torch import nn

from rcnn.errors import UserError
from rcnn.heads import SharedFC, low_rank


def trunk_of(inputs=24, hidden=(16, 20), seed=0):
    torch.manual_seed(seed)
    trunk = SharedFC(inputs, hidden)
    for layer in low_rank.linear_layers(trunk).values():
        nn.init.normal_(layer.bias)
    return trunk


def product(pair):
    """The weights that two layers have together."""
    return (pair[1].weight @ pair[0].weight).detach().double().numpy()


@pytest.mark.parametrize(("hidden", "full"), [((16, 20), (16, 16)), ((40,), (24,))])
def test_at_full_rank_nothing_changes(hidden, full):
    trunk = trunk_of(hidden=hidden)
    features = torch.randn(50, 24, 1, 1)
    before = trunk(features)
    assert low_rank.compress(trunk, full) == full
    assert torch.allclose(trunk(features), before, atol=1e-4)


@pytest.mark.parametrize("hidden", [(16,), (24,), (40,)], ids=["fewer outputs", "as many", "more outputs"])
@pytest.mark.parametrize("rank", [1, 5, 15])
def test_no_matrix_of_the_rank_is_nearer(hidden, rank):
    trunk = trunk_of(hidden=hidden)
    weight = trunk[1].weight.detach().double().numpy()
    low_rank.compress(trunk, (rank,))
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    assert np.allclose(product(trunk[1]), best, atol=1e-5)
    # Eckart and Young: the distance is that of the singular values left out, and random rivals are further away.
    distance = np.linalg.norm(weight - product(trunk[1]))
    assert distance == pytest.approx(np.sqrt((s[rank:] ** 2).sum()), rel=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        columns = np.linalg.qr(u[:, :rank] + 0.05 * rng.normal(size=(len(weight), rank)))[0]
        assert np.linalg.norm(weight - columns @ columns.T @ weight) > distance


def test_the_bias_goes_to_the_second_layer():
    trunk = trunk_of()
    bias = trunk[1].bias.clone()
    low_rank.compress(trunk, (4,))
    assert trunk[1][0].bias is None
    assert torch.equal(trunk[1][1].bias, bias)
    assert isinstance(trunk[3], nn.Linear), "a layer without a rank is left"


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9])
def test_energy_keeps_the_fewest_singular_values_that_hold_it(energy):
    trunk = trunk_of(inputs=200, hidden=(60, 50))
    expected = []
    for layer in low_rank.linear_layers(trunk).values():
        squares = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False) ** 2
        rank = next(t for t in range(1, len(squares) + 1) if squares[:t].sum() >= energy * squares.sum())
        cheaper = rank * sum(layer.weight.shape) < layer.weight.numel()
        expected.append(rank if cheaper else 0)
    assert low_rank.compress(trunk, energy=energy) == tuple(expected)


def test_layers_that_two_would_not_make_cheaper_are_left_by_energy():
    trunk = trunk_of()
    assert low_rank.compress(trunk, energy=1.0) == (0, 0)
    assert all(isinstance(layer, nn.Linear) for layer in (trunk[1], trunk[3]))


def test_a_split_trunk_takes_the_tensors_of_a_compressed_one():
    compressed, split = trunk_of(), trunk_of(seed=1)
    low_rank.compress(compressed, (4, 0))
    low_rank.split(split, (4, 0))
    split.load_state_dict(compressed.state_dict(), strict=True)
    features = torch.randn(3, 24, 1, 1)
    assert torch.equal(split(features), compressed(features))


@pytest.mark.parametrize("ranks", [(17,), (-1,), (4, 4, 4)])
def test_ranks_that_cannot_be_are_refused(ranks):
    with pytest.raises(UserError, match="fully connected"):
        low_rank.compress(trunk_of(), ranks)
