"""The loop: takes a model through the stages of its scheme, evaluates, keeps the best, and can stop and go on anywhere.

What a step does is a function of the weights, the recipe and the step's number, and the saved state holds all three; so
a run that was killed and resumed ends with the same weights, bit for bit, as one that never was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Protocol, cast

import torch

from rcnn import detectors
from rcnn.detectors import Detector
from rcnn.errors import RCNNError, UserError
from rcnn.structures import Batch
from rcnn.training.interrupt import Stopped
from rcnn.training.job import Job
from rcnn.training.loading import image_loader
from rcnn.training.logs import RunLog
from rcnn.training.progress import duration
from rcnn.training.proposing import proposed
from rcnn.training.stages import FIRST, Learn, Stage, Work, begin, release
from rcnn.training.state import FIRST_FILE, Progress, load_state, save_state
from rcnn.training.step import StageTrainer

BEST, LAST = "best", "last"
# Steps between two looks at the figures, each of which waits for the GPU.
LOOK_EVERY = 10


class Loader(Protocol):
    """Gives the training batches of any step; see `data.TrainLoader`."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Batches from number `start_step` on, without end."""


class Engine:
    """Takes a job's model through `stages`.

    Args:
        job: the model, on its device, the data and the run folder, there already; parameters that do not train by the
            model's own choice stay so.
        stages: in order.
        steps_per_epoch: optimiser steps that pass once over the data.
        loader: the training batches of stages that bring none of their own.
        validate: gives the validation figures, the model's own among them; calls its argument `pause` between batches.
        state: as of `load_state`, to go on from; None starts at the first step.

    Raises:
        UserError: several processes train together, and a stage is for one alone.
    """

    def __init__(
        self,
        job: Job,
        stages: Sequence[Stage],
        steps_per_epoch: int,
        loader: Loader,
        validate: Callable[..., dict[str, float]],
        *,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.job, self.stages, self.loader = job, stages, loader
        self.model, self.train, self.run = job.model, job.recipe.train, job.run
        self.world, self.reporter, self.interrupt = job.world, job.reporter, job.interrupt
        self.steps_per_epoch, self.validate = steps_per_epoch, validate
        alone = [stage.name for stage in stages if isinstance(stage, Work) and not stage.shared]
        if alone and self.world.size > 1:
            raise UserError(f"the stage '{alone[0]}' is work for one process; start the run without torchrun")
        self.trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.progress = Progress(**state["progress"]) if state else Progress()
        self.trainer_state: dict[str, Any] | None = state["trainer"] if state else None
        if state is not None:
            self.model.load_state_dict(state["model"])
        self.log = RunLog(self.run, state["log"] if state else 0) if self.world.first else None
        anew = any(source == FIRST for stage in stages if isinstance(stage, Learn) for _, source in stage.start)
        if anew and state is None and self.world.first:
            save_state(self.run, self.model.state_dict(), FIRST_FILE)
        self.saved = time.monotonic()

    def train_all(self) -> None:
        """Does what is left to do.

        Raises:
            Stopped: a signal asked to stop; the state is saved.
            RCNNError: a loss is not finite; the last saved state is from before it.
        """
        self._event("start", stages=[stage.name for stage in self.stages], **_versions(self.model))
        with self.interrupt.watching():
            while self.progress.stage < len(self.stages):
                self._stage(self.stages[self.progress.stage])
        if self.interrupt.requested:
            raise Stopped
        self._event("end", **asdict(self.progress))

    def _stage(self, stage: Stage) -> None:
        """Does what is left of the present stage, and passes on to the next."""
        progress = self.progress
        if stage.evaluated and progress.step == 0:
            # What a later stage makes of the model is what the scheme is for, be it better or not.
            progress.best, progress.best_step, progress.waited = -1.0, -1, 0
        try:
            self._learn(stage) if isinstance(stage, Learn) else self._work(cast(Work, stage))
        finally:
            self.reporter.stop()
        self._event("stage", name=stage.name, seconds=round(progress.stage_seconds, 1))
        if len(self.stages) > 1:
            self.reporter.say(f"{stage.name}: done in {duration(progress.stage_seconds)}")
        progress.stage, progress.step, progress.evaluated, progress.stage_seconds = progress.stage + 1, 0, -1, 0.0
        self._save(None)

    def _learn(self, stage: Learn) -> None:
        """Runs what is left of a stage's steps."""
        progress = self.progress
        if progress.step == 0:
            begin(self.model, stage, self._first(stage))
        release(self.model, stage, self.trainable)
        trainer = StageTrainer(self.model, self.train, stage, progress.stage, self.world)
        if self.trainer_state is not None:
            trainer.load_state_dict(self.trainer_state)
            self.trainer_state = None
        batches = self._loader(stage).batches(progress.step * self.train.accumulate)
        self.reporter.start(stage.name, stage.steps, progress.step)
        clock = _Clock(progress, self.train.images_per_step * self.world.size)
        while not self._ended(stage):
            if self._evaluation_due(stage):
                self._evaluate(stage, trainer)
                clock.skip()
                continue
            parts = [next(batches).to(self.model.device, non_blocking=True) for _ in range(self.train.accumulate)]
            values = trainer.step(progress.step, parts)
            progress.step += 1
            if self.model.device.type == "cpu" or progress.step % LOOK_EVERY == 0 or self._done_with_steps(stage):
                self._look(trainer, stage, values, clock)

        if stage.kept:
            if self.world.first:
                detectors.save(self.model, self.job.earlier(stage.name), about={"stage": stage.name})
            self.world.gather(None)  # the others may want to read it

    def _first(self, stage: Learn) -> Mapping[str, torch.Tensor]:
        """The state that the run began with, if the stage asks for any of it."""
        if all(source != FIRST for _, source in stage.start):
            return {}
        first = load_state(self.run, FIRST_FILE)
        if first is None:
            raise RCNNError(f"'{self.run / FIRST_FILE}' is missing, so the stage '{stage.name}' cannot start from it")
        return first

    def _loader(self, stage: Learn) -> Loader:
        """The batches of a stage."""
        job = self.job.at(stage.name)
        if stage.loader:
            return stage.loader(job)
        return image_loader(job, proposed(job, stage.proposals)) if stage.proposals else self.loader

    def _work(self, stage: Work) -> None:
        """Does what is left of a stage that takes no steps; its own folder remembers how far it came."""
        progress = self.progress
        began = time.monotonic()
        self.model.eval()
        self.reporter.start(stage.name, None, 0)
        try:
            stage.run(self.job.at(stage.name))
        finally:
            progress.count(time.monotonic() - began)
        if stage.evaluated:
            self._evaluate(stage, None)

    def _ended(self, stage: Learn) -> bool:
        """Whether the stage's steps are done and evaluated, or better results were waited for in vain."""
        progress = self.progress
        if self.train.patience and progress.waited >= self.train.patience and progress.evaluated == progress.step:
            return True
        return progress.step >= stage.steps and not self._evaluation_due(stage)

    def _evaluation_due(self, stage: Learn) -> bool:
        """Whether the present step ends a stretch of `eval_every` epochs, or the stage, and is not evaluated yet."""
        progress = self.progress
        if not stage.evaluated or progress.step == 0 or progress.evaluated == progress.step:
            return False
        stretch = max(1, round(self.train.eval_every * self.steps_per_epoch))
        return progress.step == stage.steps or (self.train.eval_every > 0 and progress.step % stretch == 0)

    def _done_with_steps(self, stage: Learn) -> bool:
        """Whether something other than a step comes next."""
        return self.progress.step == stage.steps or self._evaluation_due(stage)

    def _look(self, trainer: StageTrainer, stage: Learn, values: dict[str, torch.Tensor], clock: _Clock) -> None:
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

    def _evaluate(self, stage: Stage, trainer: StageTrainer | None) -> None:
        """Evaluates the present weights (their average, if one is kept), and saves the model and the state."""
        progress = self.progress
        began = time.monotonic()
        try:
            with trainer.averaged() if trainer else nullcontext():
                metrics = self.validate(pause=self._pause)
                progress.evaluated = progress.step
                figure = metrics[self.model.figures[0]]
                improved = figure > progress.best
                if improved:
                    progress.best, progress.best_step, progress.waited = figure, progress.step, 0
                else:
                    progress.waited += 1
                self._keep(metrics, stage, improved)
        except Stopped:
            self._save(trainer)
            raise
        progress.count(time.monotonic() - began)
        self._record(stage, trainer, metrics, improved)
        self._save(trainer)

    def _pause(self) -> None:
        """Stops here if a signal asked for it, where no other process would wait for this one."""
        if self.interrupt.requested and self.world.size == 1:
            raise Stopped

    def _keep(self, metrics: dict[str, float], stage: Stage, improved: bool) -> None:
        """Saves the model as the last, and as the best where it is."""
        if not self.world.first:
            return
        about = {"stage": stage.name, "step": self.progress.step, **metrics}
        detectors.save(self.model, self.run / LAST, about=about)
        if improved:
            detectors.save(self.model, self.run / BEST, about=about)

    def _record(self, stage: Stage, trainer: StageTrainer | None, metrics: dict[str, float], improved: bool) -> None:
        """Writes and says the figures of an evaluation."""
        progress = self.progress
        losses = trainer.means() if trainer else {}
        row = {
            "stage": stage.name,
            "epoch": round(progress.step / self.steps_per_epoch, 3),
            "step": progress.step,
            "lr": trainer.lr(progress.step - 1) if trainer else 0.0,
            **losses,
            **metrics,
            "seconds": round(progress.seconds, 1),
        }
        if self.log is not None:
            self.log.evaluation(row)
        where = f" step {progress.step}/{stage.steps} · epoch {row['epoch']:g}" if isinstance(stage, Learn) else ""
        means = [("loss", losses.get("loss")), ("val loss", metrics.get("val_loss"))]
        figures = [f"{name} {value:.4f}" for name, value in means if value is not None]
        figures += [f"{name} {metrics[name]:.4f}" for name in self.model.figures[:2]]
        star = " · best so far" if improved else ""
        self.reporter.result(f"{stage.name}{where} · {' · '.join(figures)} · {duration(progress.seconds)}{star}")

    def _save(self, trainer: StageTrainer | None) -> None:
        """Saves the state; the figures of every step up to now are known to be finite."""
        if trainer is not None:
            trainer.guard.check()
        if self.log is not None:
            state = {
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "trainer": trainer.state_dict() if trainer else None,
                "log": self.log.length(),
            }
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
        self.progress.count(took)
        old = 0.9**steps if self.seconds_per_step else 0.0
        self.seconds_per_step = old * self.seconds_per_step + (1 - old) * took / steps

    def skip(self) -> None:
        """What happened since the last look were no steps."""
        self.before = time.monotonic()

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images_per_step / max(self.seconds_per_step, 1e-9)
