from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from rcnn.errors import RCNNError, UserError
from rcnn.training import read_events, read_metrics, train

SYSTEM = "tiny/net"


def rows(run):
    """`metrics.csv`, but for the time that evaluations took."""
    with open(run / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def weights(run, which="last"):
    return load_file(run / which / "model.safetensors")


def assert_equal(run, other):
    """The two runs ended with the same bits and the same log."""
    for which in ("last", "best"):
        mine, theirs = weights(run, which), weights(other, which)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), name
    assert rows(run) == rows(other)


def test_a_run_leaves_what_it_promises(tiny, squares, tmp_path, capsys):
    result = train(SYSTEM, squares, out=tmp_path / "run", epochs=2)
    assert {path.name for path in result.run.iterdir()} == {
        *("recipe.toml", "metrics.csv", "log.jsonl", "best", "last", "state")
    }
    assert [row["step"] for row in result.history] == [3, 6]
    assert result.metrics == max(result.history, key=lambda row: row["mAP"])
    about = json.loads((result.best / "model.json").read_text())["about"]
    assert about["mAP"] == result.metrics["mAP"]
    talk = capsys.readouterr().err
    assert "2 classes: red, blue" in talk
    assert "estimate: about" in talk
    assert f"run folder: {result.run}\n" in talk
    assert talk.rstrip().endswith(str(result.run))


def test_losses_fall_and_validation_has_every_loss(tiny, squares, tmp_path):
    history = train(SYSTEM, squares, out=tmp_path / "run", steps=60, lr=0.2).history
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["val_loss"] < 0.7 * history[0]["val_loss"]
    for row in history:
        assert row["val_loss"] == pytest.approx(row["val_loss_cells"] + row["val_loss_size"])


def test_the_recipe_of_a_run_repeats_it(tiny, squares, tmp_path):
    first = train(SYSTEM, squares, out=tmp_path / "a", steps=6, seed=3, classes=["blue"], settings=["train.ema=0.9"])
    second = train(config=first.run / "recipe.toml", out=tmp_path / "b")
    assert (tmp_path / "a" / "recipe.toml").read_text() == (tmp_path / "b" / "recipe.toml").read_text()
    assert_equal(first.run, second.run)


def test_another_seed_gives_other_weights(tiny, squares, tmp_path):
    runs = [train(SYSTEM, squares, out=tmp_path / str(seed), steps=3, seed=seed).run for seed in (0, 1)]
    assert not torch.equal(weights(runs[0])["body.weight"], weights(runs[1])["body.weight"])


def test_frozen_parameters_stay_as_they_were(tiny, tiny_module, squares, tmp_path):
    torch.manual_seed(0)
    before = tiny_module.Tiny(("red", "blue"), tiny_module.TinyOptions())
    run = train(SYSTEM, squares, out=tmp_path / "run", steps=3).run
    assert torch.equal(weights(run)["frozen.weight"], before.frozen.weight)
    assert not torch.equal(weights(run)["body.weight"], before.body.weight)


def test_accumulating_passes_adds_their_gradients(tiny, squares, tmp_path):
    result = train(SYSTEM, squares, out=tmp_path / "run", epochs=1, batch_size=2, settings={"train.accumulate": 2})
    assert result.recipe.stages[0].steps == 3  # 10 images, 5 passes of 2
    assert result.recipe.stages[0].lr == 0.01  # that of 4 images


def test_the_learning_rate_scales_with_the_batch_and_the_plan_says_so(tiny, squares, tmp_path, capsys):
    result = train(SYSTEM, squares, out=tmp_path / "a", steps=1, batch_size=2)
    assert result.recipe.stages[0].lr == 0.005
    assert "learning rate 0.005 (0.01 for 4 images, scaled linearly) for 2 images a step" in capsys.readouterr().err
    result = train(SYSTEM, squares, out=tmp_path / "b", steps=1, batch_size=2, lr=0.3)
    assert result.recipe.stages[0].lr == 0.3
    assert "learning rate 0.3 (as given) for 2 images a step" in capsys.readouterr().err


def test_a_run_stops_early_when_nothing_gets_better(tiny, squares, tmp_path):
    # At this rate nothing moves, so the first evaluation stays the best.
    settings = {"train.patience": 2, "train.lr": 1e-12}
    result = train(SYSTEM, squares, out=tmp_path / "run", epochs=9, settings=settings)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]


def test_a_dry_run_writes_nothing(tiny, squares, tmp_path, capsys):
    assert train(SYSTEM, squares, out=tmp_path / "run", dry_run=True) is None
    assert not (tmp_path / "run").exists()
    assert "one batch gave a loss of" in capsys.readouterr().err


def test_trying_a_step_first_does_not_change_the_run(tiny, tiny_module, squares, tmp_path, monkeypatch):
    tried = train(SYSTEM, squares, out=tmp_path / "a", steps=4).run
    from rcnn.training import plan

    monkeypatch.setattr(plan, "try_step", lambda model, batch, stage: plan.Cost(1.0, 1, 1.0))
    assert_equal(tried, train(SYSTEM, squares, out=tmp_path / "b", steps=4).run)


def test_quiet_leaves_a_line_an_evaluation(tiny, squares, tmp_path, capsys):
    train(SYSTEM, squares, out=tmp_path / "run", epochs=2, quiet=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("mAP" in line for line in lines)


def test_without_out_runs_are_numbered(tiny, squares, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(train(SYSTEM, squares, steps=1).run) for _ in range(2)]
    assert names == ["runs/tiny-net-1", "runs/tiny-net-2"]


def test_a_run_is_never_overwritten(tiny, squares, tmp_path):
    train(SYSTEM, squares, out=tmp_path / "run", steps=1)
    with pytest.raises(UserError, match=r"holds a run already.*--resume"):
        train(SYSTEM, squares, out=tmp_path / "run", steps=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty"):
        train(SYSTEM, squares, out=tmp_path / "other", steps=1)


def test_a_resumed_run_keeps_its_recipe(tiny, squares, tmp_path):
    train(SYSTEM, squares, out=tmp_path / "run", steps=2)
    with pytest.raises(UserError, match=r"train\.steps = 5: the run in .* was started with 2"):
        train(out=tmp_path / "run", resume=True, steps=5)
    assert train(out=tmp_path / "run", resume=True, steps=2, workers=1).history[-1]["step"] == 2


def test_only_a_run_can_be_resumed(tiny, squares, tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        train(SYSTEM, squares, out=tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="which run"):
        train(SYSTEM, squares, resume=True)


def test_a_state_half_written_when_the_process_was_killed_is_ignored_and_removed(tiny, squares, tmp_path):
    run = train(SYSTEM, squares, out=tmp_path / "run", steps=2).run
    (run / "state" / ".state.4711.part.pt").write_bytes(b"half a sta")
    train(out=run, resume=True)
    assert [path.name for path in (run / "state").iterdir()] == ["state.pt"]


def test_a_damaged_state_is_told_in_one_sentence(tiny, squares, tmp_path):
    run = train(SYSTEM, squares, out=tmp_path / "run", steps=2).run
    (run / "state" / "state.pt").write_bytes(b"half a sta")
    with pytest.raises(RCNNError, match="is damaged, so the run cannot be resumed"):
        train(out=run, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tiny, squares, tmp_path):
    tiny(poison_at=8)  # three of the passes are the trial's
    with pytest.raises(RCNNError, match=r"loss of step 5 is not finite, with the images (.*\.png(, )?){4};") as error:
        train(SYSTEM, squares, out=tmp_path / "run", epochs=3)
    assert "\n" not in str(error.value)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [3]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_run_stopped_by_the_guard_can_be_resumed(tiny, squares, tmp_path):
    whole = train(SYSTEM, squares, out=tmp_path / "whole", epochs=3).run
    tiny(poison_at=8)
    with pytest.raises(RCNNError):
        train(SYSTEM, squares, out=tmp_path / "run", epochs=3)
    tiny()
    assert_equal(whole, train(out=tmp_path / "run", resume=True).run)


def test_resuming_cuts_the_logs_to_the_saved_step(tiny, squares, tmp_path):
    run = train(SYSTEM, squares, out=tmp_path / "run", epochs=2).run
    before, lines = rows(run), len(read_events(run))
    with open(run / "metrics.csv", "a") as file:
        file.write("joint,9,99,")
    with open(run / "log.jsonl", "a") as file:
        file.write('{"event": "ste')
    train(out=run, resume=True)
    assert rows(run) == before
    # what the finished run said after its last state is said again, after the new start
    assert len(read_events(run)) == lines + 1


def test_an_unknown_model_setting_is_told_before_anything_is_written(tiny, squares, tmp_path):
    with pytest.raises(UserError, match=r"widht = 3: unknown setting; did you mean 'width'"):
        train(SYSTEM, squares, out=tmp_path / "run", settings=["model.widht=3"])
    assert not (tmp_path / "run").exists()
