from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rcnn.training import read_metrics, train

SYSTEM = "tiny/net"
SETTINGS = {"train.checkpoint_every": 0, "train.ema": 0.9, "train.accumulate": 2, "train.eval_every": 2}
# As long as a step of a real model, so that a signal meets it at work.
TRAITS = {"pause": 0.03}
TWO = {"batch_size": 2, "traits": {"plain": True}}


@pytest.fixture(scope="module")
def asked(squares):
    return {"data": str(squares), "epochs": 12, "batch_size": 2, "settings": SETTINGS}


@pytest.fixture
def uninterrupted(tiny, asked, tmp_path):
    return train(SYSTEM, out=tmp_path / "whole", **asked)


def wait_for_step(run, step):
    """Returns once the run in the folder has saved a state that is at least so far."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if torch.load(run / "state" / "state.pt", weights_only=True)["progress"]["step"] >= step:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached in a minute")


def assert_same_end(run, other):
    """Last and best weights and the metrics are equal to the bit, time aside."""
    for which in ("last", "best"):
        mine, theirs = (load_file(folder / which / "model.safetensors") for folder in (run, other))
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), f"{which} {name}"
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(f)] for f in (run, other)]
    assert timeless[0] == timeless[1]


def test_a_run_stopped_killed_and_resumed_ends_with_the_same_bits(uninterrupted, start, asked, tmp_path):
    run = tmp_path / "run"
    # The first state that the signal meets was saved with the first evaluation, the next because of the signal.
    process = start(out=run, traits=TRAITS, **{**asked, "settings": {**SETTINGS, "train.checkpoint_every": 1e6}})
    wait_for_step(run, 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert f"rcnn train --resume --out {run}" in process.stderr.read()

    process = start(out=run, resume=True, traits=TRAITS, settings={"train.checkpoint_every": 0})
    wait_for_step(run, int(np.random.default_rng().integers(10, 32)))
    process.kill()
    assert process.wait() == -signal.SIGKILL

    train(out=run, resume=True)
    assert_same_end(uninterrupted.run, run)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(8))
def test_a_run_killed_twice_at_any_time_ends_with_the_same_bits(uninterrupted, start, asked, tmp_path, attempt):
    run = tmp_path / "killed"
    random = np.random.default_rng()
    for count, step in enumerate(sorted(random.integers(1, 30, 2).tolist())):
        process = start(out=run, resume=count > 0, traits=TRAITS, **asked)
        wait_for_step(run, step)
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        process.wait()
    train(out=run, resume=True)
    assert_same_end(uninterrupted.run, run)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tiny, tiny_module, squares, tmp_path, monkeypatch):
    losses = tiny_module.Tiny.losses

    def press_at_the_tenth_pass(self, batch, generator=None, part=""):
        if self.training and self.passes == 9:
            signal.raise_signal(signal.SIGINT)
        return losses(self, batch, generator, part)

    whole = train(SYSTEM, squares, out=tmp_path / "whole", epochs=4)
    monkeypatch.setattr(tiny_module.Tiny, "losses", press_at_the_tenth_pass)
    with pytest.raises(KeyboardInterrupt):
        train(SYSTEM, squares, out=tmp_path / "run", epochs=4)
    assert torch.load(tmp_path / "run" / "state" / "state.pt")["progress"]["step"] == 7  # three passes were the trial's
    monkeypatch.undo()
    train(out=tmp_path / "run", resume=True)
    assert_same_end(whole.run, tmp_path / "run")


def test_ctrl_c_during_an_evaluation_evaluates_again(tiny, tiny_module, squares, tmp_path, monkeypatch):
    examine = tiny_module.Tiny.examine

    def press(self, *arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return examine(self, *arguments, **options)

    settings = {"train.ema": 0.9}
    whole = train(SYSTEM, squares, out=tmp_path / "whole", epochs=2, settings=settings)
    monkeypatch.setattr(tiny_module.Tiny, "examine", press)
    with pytest.raises(KeyboardInterrupt):
        train(SYSTEM, squares, out=tmp_path / "run", epochs=2, settings=settings)
    assert read_metrics(tmp_path / "run") == []
    monkeypatch.undo()
    train(out=tmp_path / "run", resume=True)
    assert_same_end(whole.run, tmp_path / "run")


def test_a_run_killed_before_its_first_state_starts_again(uninterrupted, tiny, asked, tmp_path):
    run = tmp_path / "early"
    run.mkdir()
    (run / "recipe.toml").write_bytes((uninterrupted.run / "recipe.toml").read_bytes())
    train(out=run, resume=True)
    assert_same_end(uninterrupted.run, run)


def test_workers_change_nothing(uninterrupted, tiny, asked, tmp_path):
    assert_same_end(uninterrupted.run, train(SYSTEM, out=tmp_path / "workers", workers=2, **asked).run)


def test_two_processes_move_weights_as_one_with_twice_the_batch(tiny, squares, tmp_path):
    tiny(plain=True)
    words = {"data": str(squares), "steps": 4, "device": "cpu", "settings": {"train.ema": 0.5}}
    one = train(SYSTEM, out=tmp_path / "one", batch_size=4, **words)
    program = [str(Path(__file__).parent / "tiny.py"), json.dumps({**words, "out": str(tmp_path / "two"), **TWO})]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*launcher, *program], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        _, talk = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, talk
    assert talk.count("for 4 images a step") == 1  # one process talks for both
    mine, theirs = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    for name, value in mine.items():
        assert torch.allclose(value.float(), theirs[name].float(), atol=1e-6), name
    row, other = one.history[-1], read_metrics(tmp_path / "two")[-1]
    assert other["val_loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    assert other["mAP"] == pytest.approx(row["mAP"], abs=1e-3)
