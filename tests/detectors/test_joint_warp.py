"""Non-approximate joint training: the detection loss moves the proposals, by the slope that finite differences find."""

from __future__ import annotations

import pytest
import torch

from rcnn import targets
from rcnn.errors import UserError
from rcnn.structures import Batch, GroundTruth, ImageBatch

WARP = {"pool": {"kind": "warp"}, "proposal_gradient": 1.0}


def batch_of(*counts):
    """A batch of noise images of 64 × 96 with so many objects each."""
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(len(counts), 3, 2, generator=rng) * 40
    boxes = torch.cat((corner, corner + 10 + 10 * torch.rand(len(counts), 3, 2, generator=rng)), -1)
    absent = torch.arange(3) >= torch.tensor(counts)[:, None]
    labels = torch.randint(0, 3, (len(counts), 3), generator=rng).masked_fill(absent, -1)
    pixels = torch.randint(0, 256, (len(counts), 3, 64, 96), generator=rng, dtype=torch.uint8)
    truth = GroundTruth(boxes.masked_fill(absent[..., None], 0), labels, torch.zeros_like(absent))
    return Batch(ImageBatch(pixels, torch.tensor([[64.0, 96.0]] * len(counts))), truth)


def total(losses):
    return sum(value for name, value in losses.items() if name.startswith("loss"))


def box_layer_gradient(model, batch):
    """The gradient of the detection loss at the RPN's box layer."""
    model.zero_grad(set_to_none=True)
    losses = model(batch, torch.Generator().manual_seed(0), "detector")
    total(losses).backward()
    grad = model.rpn.head.bbox_pred.weight.grad
    return torch.zeros(()) if grad is None else grad


def test_the_detection_loss_moves_the_rpns_boxes_under_joint_warp_alone(tiny):
    batch = batch_of(2, 3)
    assert not box_layer_gradient(tiny(), batch).any(), "approximate joint training"
    assert not box_layer_gradient(tiny(pool={"kind": "warp"}), batch).any(), "warping alone does not do it"
    assert box_layer_gradient(tiny(**WARP), batch).abs().max() > 1e-4
    model = tiny(**WARP)
    box_layer_gradient(model, batch)
    assert model.rpn.head.cls_logits.weight.grad is None, "which proposals there are stays fixed"


def test_the_losses_are_those_of_approximate_joint_training(tiny):
    batch = batch_of(2, 3)
    one, other = (tiny(**{**WARP, "proposal_gradient": moves}) for moves in (0.0, 1.0))
    a, b = (model(batch, torch.Generator().manual_seed(0)) for model in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_regression_targets_stay_fixed_unless_asked_for(tiny):
    batch = batch_of(2, 3)
    fixed = box_layer_gradient(tiny(**WARP), batch)
    both = box_layer_gradient(tiny(**WARP, box={"hidden": [32], "samples": 32, "target_gradient": True}), batch)
    assert not torch.allclose(fixed, both)


@pytest.mark.parametrize("form", ["shrivastava", "rfcn", "fraction"])
def test_hard_examples_move_their_proposals_too(tiny, form):
    model = tiny(**WARP, box={"hidden": [32], "samples": 8, "ohem": form})
    assert box_layer_gradient(model, batch_of(2, 3)).any()


def test_images_without_objects_train_every_parameter(tiny):
    model = tiny(**WARP)
    total(model(batch_of(0, 0), torch.Generator().manual_seed(0))).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_without_warping_it_is_refused(tiny):
    with pytest.raises(UserError, match=r"model\.proposal_gradient needs model\.pool\.kind = 'warp': 'align' gives"):
        tiny(proposal_gradient=1.0)


@pytest.mark.parametrize("moving", [False, True], ids=["targets fixed", "targets moving"])
def test_finite_differences_agree_from_end_to_end(tiny, monkeypatch, moving):
    """In float64, from the RPN's box layer through decoding, clipping, warping and the head to the loss.

    Assignment and sampling are decided by order and thresholds, which so small a step does not cross.
    """
    model = tiny(**WARP, box={"hidden": [16], "samples": 32, "target_gradient": moving}).double()
    batch = batch_of(3)
    goals = []
    encode = targets.encode

    def remembered(references, *arguments):
        goals.append(encode(references, *arguments))
        return goals[-1] if moving else goals[0]

    monkeypatch.setattr(targets, "encode", remembered)

    def loss():
        return total(model(batch, torch.Generator().manual_seed(0), "detector"))

    weight = model.rpn.head.bbox_pred.bias
    loss().backward()
    expected, step = weight.grad.clone(), 1e-6
    found = torch.zeros_like(expected)
    with torch.no_grad():
        for index in range(len(weight)):
            for sign in (1, -1):
                weight[index] += sign * step
                found[index] += sign * loss() / (2 * step)
                weight[index] -= sign * step
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7), (found, expected)


def test_it_compiles_without_a_graph_break(tiny):
    model, batch = tiny(**WARP).eval(), batch_of(2, 0)
    eager = model.losses(batch, None)
    assert set(eager) == set(torch.compile(model.losses, fullgraph=True, backend="eager")(batch, None))
