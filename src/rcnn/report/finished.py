"""The report of a run that is on disk: its best model is run over the validation images once more, and told about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcnn import detectors, evaluation, inference
from rcnn.data import open_dataset
from rcnn.report.run_report import PICTURES, Sample, write_run_report
from rcnn.report.segmentation_report import MapSample, write_segmentation_report
from rcnn.training import read_events, read_recipe
from rcnn.training.recipe import FILE, Recipe

VERSIONS = ("device", "python", "torch")


def report_run(
    run: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 8,
    done: Callable[[int], object] = lambda count: None,
) -> Path:
    """Writes `report.html` and `plots/` into the run folder, from its logs and its best model; gives the report's path.

    Args:
        run: the run folder.
        device: where the model runs.
        batch_size: the most images run at once.
        done: called with the number of validation images finished.

    Raises:
        UserError: it is no run folder, or its data is not there any more.
    """
    run = Path(run)
    recipe = read_recipe(run / FILE)
    model = inference.load(run, device=device, precision=recipe.train.precision)
    if isinstance(model, detectors.Segmenter):
        return _report_segmenter(run, recipe, model, batch_size, done)
    assert isinstance(model, detectors.Detector)
    dataset = open_dataset(recipe.data.path, recipe.data.val, classes=model.classes)
    truths = [dataset.truth(i) for i in range(len(dataset))]
    predictions = evaluation.detect_in(model, dataset, batch_size=batch_size, done=done)
    ranked = evaluation.rank_images(truths, predictions).tolist()
    shown = ranked if len(ranked) <= 2 * PICTURES else ranked[:PICTURES] + ranked[-PICTURES:]
    return write_run_report(
        run,
        result=evaluation.evaluate(truths, predictions, dataset.classes, sizes=dataset.sizes),
        curves=evaluation.find_curves(truths, predictions, dataset.classes),
        samples=[Sample(dataset.image(i), truths[i], predictions[i], dataset.name(i)) for i in shown],
        **_told(run, recipe),
    )


def _report_segmenter(
    run: Path, recipe: Recipe, model: detectors.Segmenter, batch_size: int, done: Callable[[int], object]
) -> Path:
    """`report_run` of a run that learnt label maps."""
    dataset = open_dataset(recipe.data.path, recipe.data.val, classes=model.classes, semantic=True)
    matrices = evaluation.segment_in(model, dataset, batch_size=batch_size, done=done)
    quality = [evaluation.total_of([matrix], model.classes).mIoU for matrix in matrices]
    ranked = sorted(range(len(dataset)), key=quality.__getitem__)
    shown = ranked if len(ranked) <= 2 * PICTURES else ranked[:PICTURES] + ranked[-PICTURES:]
    samples = []
    for i in shown:
        image = dataset.image(i)
        (found,) = model.predict([image])
        samples.append(MapSample(image, dataset.label_map(i), found.labels, dataset.name(i), quality[i]))
    result = evaluation.total_of(matrices, model.classes)
    return write_segmentation_report(run, result=result, samples=samples, **_told(run, recipe))


def _told(run: Path, recipe: Recipe) -> dict[str, Any]:
    """What every report says of its run: log, recipe, environment and names."""
    events = read_events(run)
    started: dict[str, Any] = next((event for event in events if event["event"] == "start"), {})
    return {
        "metrics": _rows(events),
        "recipe": (run / FILE).read_text(encoding="utf-8"),
        "environment": {name: started[name] for name in VERSIONS if name in started},
        "title": f"{recipe.system} on {Path(recipe.data.path).name}",
        "data": recipe.data.path,
    }


def _rows(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Training figures from the steps' events, validation figures from the evaluations'; each figure only once."""
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [
        {key: value for key, value in event.items() if not key.startswith("loss") and key != "lr"}
        for event in events
        if event["event"] == "evaluation"
    ]
    return sorted(steps + evaluations, key=lambda row: row["step"])
