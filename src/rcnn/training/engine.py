"""The loop: takes a model through the stages of its scheme, evaluates, keeps the best, and can stop and go on anywhere.

What a step does is a function of the weights, the recipe and the step's number, and the saved state holds all three; so
a run that was killed and resumed ends with the same weights, bit for bit, as one that never was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from rcnn import detectors
from rcnn.detectors import Detector
from rcnn.structures import Batch
from rcnn.training.interrupt import Interrupt, Stopped
from rcnn.training.logs import RunLog
from rcnn.training.progress import Reporter, duration
from rcnn.training.recipe import TrainSettings
from rcnn.training.stages import Stage, release
from rcnn.training.state import Progress, save_state
from rcnn.training.step import StageTrainer
from rcnn.training.world import World

BEST, LAST = "best", "last"
# Steps between two looks at the figures, each of which waits for the GPU.
LOOK_EVERY = 10


class Loader(Protocol):
    """Gives the training batches of any step; see `data.TrainLoader`."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Batches from number `start_step` on, without end."""


class Engine:
    """Trains `model` through `stages` in the folder `run`.

    Args:
        model: on its device; its parameters that do not train by its own choice stay so.
        train: see `TrainSettings`.
        stages: in order.
        steps_per_epoch: optimiser steps that pass once over the data.
        loader: the training batches.
        validate: gives the validation figures, `mAP` among them; calls its argument `pause` between batches.
        run: the run folder, there already.
        world: the processes that train together.
        reporter: says what happens.
        state: as of `load_state`, to go on from; None starts at the first step.
    """

    def __init__(
        self,
        model: Detector,
        train: TrainSettings,
        stages: Sequence[Stage],
        steps_per_epoch: int,
        loader: Loader,
        validate: Callable[..., dict[str, float]],
        *,
        run: Path,
        world: World,
        reporter: Reporter,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.train, self.stages, self.loader = model, train, stages, loader
        self.steps_per_epoch, self.validate = steps_per_epoch, validate
        self.run, self.world, self.reporter = run, world, reporter
        self.trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.progress = Progress(**state["progress"]) if state else Progress()
        self.state = state
        self.interrupt = Interrupt()
        self.log = RunLog(run, state["logs"] if state else None) if world.first else None
        self.saved = time.monotonic()

    def train_all(self) -> None:
        """Trains what is left to train.

        Raises:
            Stopped: a signal asked to stop; the state is saved.
            RCNNError: a loss is not finite; the last saved state is from before it.
        """
        self._event("start", stages=[stage.name for stage in self.stages], **_versions(self.model))
        with self.interrupt.watching():
            while self.progress.stage < len(self.stages):
                self._stage(self.progress.stage, self.stages[self.progress.stage])
        if self.interrupt.requested:
            raise Stopped
        self._event("end", **asdict(self.progress))

    def _stage(self, index: int, stage: Stage) -> None:
        """Runs what is left of one stage."""
        progress = self.progress
        release(self.model, stage, self.trainable)
        trainer = StageTrainer(self.model, self.train, stage, index, self.world)
        if self.state is not None:
            trainer.load_state_dict(self.state["trainer"])
            self.state = None
        self.model.train()
        batches = self.loader.batches(progress.step * self.train.accumulate)
        self.reporter.start(stage.name, stage.steps, progress.step)
        clock = _Clock(progress, self.train.images_per_step * self.world.size)
        try:
            while not self._ended(stage):
                if self._evaluation_due(stage):
                    self._evaluate(trainer, stage)
                    clock.skip()
                    continue
                parts = [next(batches).to(self.model.device, non_blocking=True) for _ in range(self.train.accumulate)]
                values = trainer.step(progress.step, parts)
                progress.step += 1
                if self.model.device.type == "cpu" or progress.step % LOOK_EVERY == 0 or self._evaluation_due(stage):
                    self._look(trainer, stage, values, clock)
        finally:
            self.reporter.stop()
        progress.stage, progress.step, progress.evaluated, progress.waited = index + 1, 0, -1, 0
        if progress.stage == len(self.stages):
            self._save(trainer)

    def _ended(self, stage: Stage) -> bool:
        """Whether the stage's steps are done and evaluated, or better results were waited for in vain."""
        progress = self.progress
        if self.train.patience and progress.waited >= self.train.patience and progress.evaluated == progress.step:
            return True
        return progress.step >= stage.steps and not self._evaluation_due(stage)

    def _evaluation_due(self, stage: Stage) -> bool:
        """Whether the present step ends a stretch of `eval_every` epochs, or the stage, and is not evaluated yet."""
        progress = self.progress
        if progress.step == 0 or progress.evaluated == progress.step:
            return False
        stretch = max(1, round(self.train.eval_every * self.steps_per_epoch))
        return progress.step == stage.steps or (self.train.eval_every > 0 and progress.step % stretch == 0)

    def _look(self, trainer: StageTrainer, stage: Stage, values: dict[str, torch.Tensor], clock: _Clock) -> None:
        """Reads the figures of the step just made, shows and logs them, and saves or stops where it is time."""
        progress = self.progress
        trainer.guard.check()
        clock.look(progress.step)
        if progress.step % LOOK_EVERY == 0 or progress.step == stage.steps:
            figures = {name: value.item() for name, value in values.items()}
            lr = trainer.lr(progress.step - 1)
            self._event("step", stage=stage.name, step=progress.step, lr=lr, **figures, images_per_second=clock.rate)
        left = (stage.steps - progress.step) * clock.seconds_per_step
        self.reporter.step(stage.name, progress.step, stage.steps, values["loss"].item(), clock.rate, left)
        if self._stops():
            self._save(trainer)
            raise Stopped
        if time.monotonic() - self.saved >= self.train.checkpoint_every:
            self._save(trainer)

    def _stops(self) -> bool:
        """Whether a signal asked any process to stop; all processes agree, at the same step."""
        if self.world.size == 1:
            return self.interrupt.requested
        return self.progress.step % LOOK_EVERY == 0 and any(self.world.gather(self.interrupt.requested))

    def _evaluate(self, trainer: StageTrainer, stage: Stage) -> None:
        """Evaluates the present weights (their average, if one is kept), and saves the model and the state."""
        progress = self.progress

        def pause() -> None:
            if self.interrupt.requested and self.world.size == 1:
                raise Stopped

        began = time.monotonic()
        try:
            with trainer.averaged():
                metrics = self.validate(pause=pause)
                progress.evaluated = progress.step
                improved = metrics["mAP"] > progress.best
                if improved:
                    progress.best, progress.best_step, progress.waited = metrics["mAP"], progress.step, 0
                else:
                    progress.waited += 1
                self._keep(metrics, stage, improved)
        except Stopped:
            self._save(trainer)
            raise
        progress.seconds += time.monotonic() - began
        self._record(trainer, stage, metrics, improved)
        self._save(trainer)

    def _keep(self, metrics: dict[str, float], stage: Stage, improved: bool) -> None:
        """Saves the model as the last, and as the best where it is."""
        if not self.world.first:
            return
        about = {"stage": stage.name, "step": self.progress.step, **metrics}
        detectors.save(self.model, self.run / LAST, about=about)
        if improved:
            detectors.save(self.model, self.run / BEST, about=about)

    def _record(self, trainer: StageTrainer, stage: Stage, metrics: dict[str, float], improved: bool) -> None:
        """Writes and says the figures of an evaluation."""
        progress = self.progress
        losses = trainer.means()
        row = {
            "stage": stage.name,
            "epoch": round(progress.step / self.steps_per_epoch, 3),
            "step": progress.step,
            "lr": trainer.lr(progress.step - 1),
            **losses,
            **metrics,
            "seconds": round(progress.seconds, 1),
        }
        if self.log is not None:
            self.log.row(row)
        self._event("evaluation", **row)
        star = " · best so far" if improved else ""
        self.reporter.result(
            f"{stage.name} step {progress.step}/{stage.steps} · epoch {row['epoch']:g} · loss {losses['loss']:.4f}"
            f" · val loss {metrics['val_loss']:.4f} · mAP {metrics['mAP']:.4f} · AP50 {metrics['AP50']:.4f}"
            f" · {duration(progress.seconds)}{star}"
        )

    def _save(self, trainer: StageTrainer) -> None:
        """Saves the state; the figures of every step up to now are known to be finite."""
        trainer.guard.check()
        if self.log is not None:
            state = {"progress": asdict(self.progress), "trainer": trainer.state_dict(), "logs": self.log.lengths()}
            save_state(self.run, state)
        self.saved = time.monotonic()

    def _event(self, kind: str, **values: Any) -> None:
        if self.log is not None:
            self.log.event(kind, **values)


def _versions(model: Detector) -> dict[str, str]:
    """What the run runs on, for its log."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": f"{device} ({name})", "torch": torch.__version__, "python": platform.python_version()}


class _Clock:
    """Counts the time of steps into `progress.seconds`, and gives the recent speed.

    On a GPU a step returns before it is done, so only the time between two looks at its figures means something.
    """

    def __init__(self, progress: Progress, images_per_step: int) -> None:
        self.progress, self.images_per_step = progress, images_per_step
        self.step = progress.step
        self.before = time.monotonic()
        self.seconds_per_step = 0.0

    def look(self, step: int) -> None:
        """All steps up to `step` are done. The speed is an average that forgets over some ten steps."""
        now = time.monotonic()
        took, self.before = now - self.before, now
        steps, self.step = step - self.step, step
        self.progress.seconds += took
        old = 0.9**steps if self.seconds_per_step else 0.0
        self.seconds_per_step = old * self.seconds_per_step + (1 - old) * took / steps

    def skip(self) -> None:
        """What happened since the last look were no steps."""
        self.before = time.monotonic()

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images_per_step / max(self.seconds_per_step, 1e-9)
