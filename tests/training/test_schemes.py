"""The schemes of Faster R-CNN: what trains when, from which weights, on which proposals, and what stands still."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rcnn
from rcnn.detectors.faster_rcnn import FasterRCNN
from rcnn.detectors.proposing import NetworkRegions
from rcnn.errors import RCNNError, UserError
from rcnn.structures import Batch
from rcnn.training import Learn, train
from rcnn.training.run import flags
from rcnn.training.schemes import SCHEMES, Budget, SchemeSettings, alternating, four_step
from rcnn.training.stages import begin

SYSTEM = "faster-rcnn/resnet18-fpn"
# Batch norm, so that statistics would give away a backbone that did not stand still.
SETTINGS = {
    "model.image_size": [32, 48],
    "model.backbone.norm": "batch",
    "model.backbone.channels": 8,
    "model.backbone.levels": [8, 16],
    "model.anchors.sizes": [[16.0], [24.0]],
    "model.rpn.pre_nms": [20, 10],
    "model.rpn.post_nms": [20, 10],
    "model.box.hidden": [8],
    "model.box.samples": 8,
    "train.eval_every": 0,
    "train.checkpoint_every": 0,
    "train.workers": 0,
}


@pytest.fixture(scope="module")
def run_of(squares, tmp_path_factory):
    """`run_of("four-step", handover="rpn")` is the folder of a run of two steps a stage, made once."""
    runs = {}

    def run(scheme, **plan):
        key = (scheme, *sorted(plan.items()))
        if key not in runs:
            settings = {**SETTINGS, **{f"train.plan.{name}": value for name, value in plan.items()}}
            out = tmp_path_factory.mktemp(scheme) / "run"
            train(SYSTEM, squares, out=out, scheme=scheme, steps=2, batch_size=2, settings=settings, quiet=True)
            runs[key] = out
        return runs[key]

    return run


def model_of(run, stage):
    return load_file(run / "stages" / stage / "model.safetensors")


def last(run):
    return load_file(run / "last" / "model.safetensors")


def part(state, module):
    return {name: value for name, value in state.items() if name.startswith(f"{module}.")}


def same(a, b):
    """The names of tensors that are equal to the bit in both."""
    return {name for name, value in a.items() if torch.equal(value, b[name])}


def test_four_step_shares_nothing_after_step_2_and_all_convolutions_from_then_on(run_of):
    run = run_of("four-step")
    one, two, three, four = (model_of(run, name) for name in ("rpn-1", "detector-1", "rpn-2", "detector-2"))
    convolutions = {name for name in one if name.startswith("backbone") and one[name].ndim == 4}
    assert convolutions
    assert not convolutions & same(one, two), "step 2's network learnt from step 1's proposals alone"
    for later in (three, four, last(run)):
        backbone = part(two, "backbone")
        assert same(backbone, later) == set(backbone), "weights and statistics of steps 3 and 4 are step 2's"
    assert same(part(three, "rpn"), four) == set(part(three, "rpn")), "proposals do not move in step 4"
    assert not {n for n in same(part(one, "rpn"), three) if n.endswith("conv.weight")}
    assert not {n for n in same(part(two, "box_head"), four) if n.endswith("weight")}
    assert not part(four, "rpn_backbone"), "one network"


def test_step_2_starts_where_step_1_did(run_of):
    first = torch.load(run_of("four-step") / "state" / "first.pt", weights_only=True)
    model = rcnn.load(run_of("four-step"))
    stages = four_step(Budget(1, 0.1))
    begin(model, stages[2], first)
    for name, value in model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, first[name]), name
    begin(model, stages[3], first)
    assert same(part(model.state_dict(), "rpn"), first) == set(part(first, "rpn"))
    trained = {name: value.clone() for name, value in part(model.state_dict(), "box_head").items()}
    begin(model, stages[5], first)
    assert same(trained, model.state_dict()) == set(trained), "step 4 goes on with step 2's detector"
    begin(model, four_step(Budget(1, 0.1, plan=SchemeSettings(handover="rpn")))[5], first)
    anew = {"box_head.cls_score.weight", "box_head.bbox_pred.weight"}
    assert {name for name in trained if name.endswith("weight")} - same(trained, model.state_dict()) == anew


def test_every_stage_of_the_record_says_what_it_did(run_of):
    stages = tomllib.loads((run_of("four-step") / "recipe.toml").read_text())["stages"]
    names = ["rpn-1", "propose-1", "detector-1", "rpn-2", "propose-2", "detector-2"]
    assert [stage["name"] for stage in stages] == names
    assert stages[2]["start"] == ["backbone from first"]
    assert [stage["proposals"] for stage in stages] == ["", "", "rpn-1", "", "", "rpn-2"]
    assert [stage["frozen"] for stage in stages[3:]] == [["backbone"], [], ["backbone", "rpn"]]
    assert [stage["steps"] for stage in stages] == [2, 0, 2, 2, 0, 2]


def test_a_detector_learns_from_the_proposals_that_its_stage_names(run_of, squares, monkeypatch):
    """Those of the RPN that the stage before left, and of no other: found again with that model they are the same."""
    run = run_of("four-step")
    dataset = rcnn.data.open_dataset(squares, "train")
    for stage in ("rpn-1", "rpn-2"):
        method = NetworkRegions(rcnn.load(run / "stages" / stage), training=True)
        folder = run / "stages" / stage / "regions" / method.key
        assert len(list(folder.glob("*.boxes"))) == len(dataset)
        kept = rcnn.proposals.CachedRegions(method, folder.parent)
        expected = method.search(dataset.image(0))
        monkeypatch.setattr(method, "search", None)  # the next line finds nothing anew
        assert np.array_equal(kept(dataset, 0), expected)
    keys = {path.name for stage in ("rpn-1", "rpn-2") for path in (run / "stages" / stage / "regions").iterdir()}
    assert len(keys) == 2


def test_proposals_are_known_by_what_proposes_alone(run_of):
    model = rcnn.load(run_of("four-step"))
    before = NetworkRegions(model).key
    assert NetworkRegions(model, training=True).key != before
    with torch.no_grad():
        model.box_head.cls_score.weight += 1
        assert NetworkRegions(model).key == before, "the box head proposes nothing"
        model.backbone.body[0].weight[0, 0, 0, 0] += 1e-3
        assert NetworkRegions(model).key != before


def test_alternating_ends_as_one_network_whose_last_round_stood_still(run_of):
    run = run_of("alternating")
    first, second = model_of(run, "detector-1"), model_of(run, "detector-2")
    assert same(part(first, "backbone"), second) == set(part(first, "backbone"))
    assert not same(part(model_of(run, "rpn-1"), "backbone"), first) & {n for n in first if first[n].ndim == 4}
    assert not part(second, "rpn_backbone")


@pytest.mark.parametrize("plan", [{"rounds": 1}, {"rounds": 2, "freeze_last": False}])
def test_alternating_with_nothing_frozen_keeps_two_backbones_and_says_so(run_of, squares, plan):
    run = run_of("alternating", **plan)
    state = last(run)
    own, shared = part(state, "rpn_backbone"), part(state, "backbone")
    assert {name.removeprefix("rpn_") for name in own} == set(shared)
    assert not torch.equal(own["rpn_backbone.body.conv1.weight"], shared["backbone.body.conv1.weight"])
    model = rcnn.load(run)
    assert model.rpn_backbone is not None
    assert model.predict(np.zeros((48, 64, 3), np.uint8), score=0.0)
    assert any("a backbone each" in line for line in model.advice(np.array([[48, 64]])))
    if plan["rounds"] == 2:
        taken = part(model_of(run, "detector-1"), "backbone")
        moved = part(model_of(run, "rpn-2"), "rpn_backbone")
        assert {name.removeprefix("rpn_") for name in moved} == set(taken)


def test_two_backbones_are_read_by_their_own_networks(run_of):
    model = rcnn.load(run_of("alternating", rounds=1))
    image = torch.full((1, 3, 32, 64), 99, dtype=torch.uint8)
    batch = rcnn.structures.ImageBatch(image, torch.tensor([[32.0, 48.0]]))
    before = model.propose(batch, training=False).boxes
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
    assert torch.equal(model.propose(batch, training=False).boxes, before)


def test_alternating_by_batch_updates_both_on_every_batch(run_of):
    run = run_of("alternating", interval="batch")
    (stage,) = tomllib.loads((run / "recipe.toml").read_text())["stages"]
    assert (stage["name"], stage["steps"]) == ("alternating", 2)
    assert not part(last(run), "rpn_backbone")


def test_both_updates_of_a_step_see_the_same_batch_and_the_second_the_first_ones_weights(
    squares, tmp_path, monkeypatch
):
    seen = []
    losses = FasterRCNN.losses

    def note(self, batch, generator=None, part=""):
        if self.training and part:
            seen.append((part, batch.names, self.rpn.head.conv.weight.detach().clone()))
        return losses(self, batch, generator, part)

    monkeypatch.setattr(FasterRCNN, "losses", note)
    train(SYSTEM, squares, out=tmp_path / "run", scheme="alternating", interval="batch", steps=2, batch_size=2,
          settings=SETTINGS, quiet=True)  # fmt: skip
    seen = seen[-4:]
    assert [part for part, _, _ in seen] == ["rpn", "detector"] * 2
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert not torch.equal(seen[0][2], seen[1][2])


def test_each_network_part_trains_so_many_steps_in_each_of_its_stages():
    for scheme in (four_step, alternating):
        stages = [stage for stage in scheme(Budget(7, 0.1)) if isinstance(stage, Learn)]
        for name in ("rpn", "detector"):
            assert [stage.steps for stage in stages if stage.parts == (name,)] == [7, 7]
    assert [s.evaluated for s in alternating(Budget(7, 0.1))] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("scheme", "words", "sentence"),
    [
        ("alternating", ["train.plan.rounds=0"], "train.plan.rounds = 0: expected 1 or more"),
        ("alternating", ["train.plan.interval=step"], "expected one of 'round', 'batch'"),
        ("joint", ["train.plan.rounds=3"], "train.plan.rounds = 3 is for the scheme 'alternating', not 'joint'"),
        (
            "joint",
            ["train.plan.pretrain_lr=2"],
            "pretrain_lr = 2.0 is for the scheme 'at-once' or 'staged' or 'svm', not",
        ),
        ("alternating", ["train.plan.handover=rpn"], "train.plan.handover = 'rpn' is for the scheme 'four-step', not"),
        ("four-step", ["model.shared_backbone=false"], "the scheme 'four-step' needs True"),
        ("joint-warp", ["model.pool.kind=align"], "model.pool.kind = 'align': the scheme 'joint-warp' needs 'warp'"),
        ("joint-warp", ["model.proposal_gradient=0"], "the scheme 'joint-warp' without it is 'joint'"),
        ("joint", ["model.proposal_gradient=1"], "model.proposal_gradient needs model.pool.kind = 'warp'"),
    ],
)
def test_what_a_scheme_cannot_do_is_told(squares, tmp_path, scheme, words, sentence):
    with pytest.raises(UserError) as error:
        train(SYSTEM, squares, out=tmp_path / "run", scheme=scheme, steps=1, settings=words, quiet=True)
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


def test_r_fcn_takes_the_schemes_too(squares, tmp_path):
    changes = {"model.backbone.levels": "none", "model.anchors.sizes": [[16.0, 24.0]], "model.box.channels": 8}
    asked = {**SETTINGS, **changes, "model.pool.size": 3, "train.plan.rounds": 1}
    del asked["model.box.hidden"]
    run = tmp_path / "run"
    train("rfcn/resnet18", squares, out=run, scheme="alternating", steps=1, batch_size=1, settings=asked, quiet=True)
    before, after = model_of(run, "rpn-1"), model_of(run, "detector-1")
    own = part(before, "rpn_backbone")
    assert own
    assert not any("layer4" in name for name in own), "the RPN needs no conv5"
    assert same(own, after) == set(own)
    assert not same(part(before, "box_head"), after) & {"box_head.cls_maps.weight"}
    taken = rcnn.load(run / "stages" / "rpn-1")
    begin(taken, alternating(Budget(1, 0.1, plan=SchemeSettings(rounds=1)))[2], {})
    state = taken.state_dict()
    assert all(torch.equal(state[name.removeprefix("rpn_")], value) for name, value in own.items())


def test_rounds_and_interval_are_settings_too():
    assert flags(rounds=3, interval="batch") == {"train": {"plan": {"rounds": 3, "interval": "batch"}}}


def interrupted(run, squares, monkeypatch, scheme, *, training=None, proposing=None):
    """Starts a run that fails at that training pass, or that proposal, as if it had been killed there."""
    counts = {"training": 0, "proposing": 0}
    losses, search = FasterRCNN.losses, NetworkRegions.search

    def counted(name, limit):
        counts[name] += 1
        if counts[name] == limit:
            raise RCNNError("killed")

    def learn(self, batch: Batch, generator=None, part=""):
        if self.training:
            counted("training", training)
        return losses(self, batch, generator, part)

    def find(self, pixels):
        counted("proposing", proposing)
        return search(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(FasterRCNN, "losses", learn)
        patch.setattr(NetworkRegions, "search", find)
        with pytest.raises(RCNNError, match="killed"):
            train(SYSTEM, squares, out=run, scheme=scheme, steps=2, batch_size=2, settings=SETTINGS, quiet=True)


# Twelve passes are the trials'; then two of each stage, with ten proposals between.
@pytest.mark.parametrize(
    "where", [{"training": 14}, {"proposing": 4}, {"training": 15}, {"training": 18}, {"training": 20}]
)
def test_a_run_stopped_in_any_stage_ends_with_the_same_bits(run_of, squares, tmp_path, monkeypatch, where):
    run = tmp_path / "run"
    interrupted(run, squares, monkeypatch, "four-step", **where)
    train(out=run, resume=True, quiet=True)
    whole = run_of("four-step")
    expected = last(whole)
    assert same(expected, last(run)) == set(expected)
    for stage in ("rpn-1", "detector-1", "rpn-2"):
        expected = model_of(whole, stage)
        assert same(expected, model_of(run, stage)) == set(expected), stage


def test_every_scheme_of_the_table_makes_stages_with_names_of_their_own():
    for family, schemes in SCHEMES.items():
        for name, scheme in schemes.items():
            names = [stage.name for stage in scheme(Budget(3, 0.1))]
            assert len(set(names)) == len(names), (family, name)
