"""Training: recipes, stages and the engine that takes a detector through them, resumable at every step."""

from rcnn.training.logs import read_events, read_metrics
from rcnn.training.presets import RECIPES
from rcnn.training.recipe import Recipe, TrainSettings, read_recipe, resolve
from rcnn.training.run import TrainingResult, train
from rcnn.training.schemes import SCHEMES
from rcnn.training.stages import Learn, Stage, Work

__all__ = [
    "RECIPES",
    "SCHEMES",
    "Learn",
    "Recipe",
    "Stage",
    "TrainSettings",
    "TrainingResult",
    "Work",
    "read_events",
    "read_metrics",
    "read_recipe",
    "resolve",
    "train",
]
