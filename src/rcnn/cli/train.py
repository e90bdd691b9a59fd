"""`rcnn train`: trains a detector and reports on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn import cli


def command(
    system: Annotated[str, typer.Argument(help="SYSTEM/BACKBONE, such as faster-rcnn/resnet18-fpn.")] = "",
    data: Annotated[str, typer.Option(help="digits, or the place of a VOC, COCO or YOLO data set.")] = "",
    out: Annotated[str, typer.Option(help="Run folder; without it, the next free runs/SYSTEM-BACKBONE-N.")] = "",
    classes: Annotated[str, typer.Option(help="Learn these classes only, in this order: A,B,…")] = "",
    recipe: Annotated[str, typer.Option(help="classic (as published) or modern (default).")] = "",
    scheme: Annotated[str, typer.Option(help="How the stages follow one another; rcnn models lists them.")] = "",
    rounds: Annotated[
        int | None, typer.Option(help="Of the scheme alternating: how often each network trains (2).")
    ] = None,
    interval: Annotated[str, typer.Option(help="Of the scheme alternating: round, or batch.")] = "",
    epochs: Annotated[float | None, typer.Option(help="Passes over the data (12), of each trained stage.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each trained stage, instead of epochs.")] = None,
    weights: Annotated[
        str, typer.Option(help="First weights: the backbone's file, imagenet, none (random); or a model folder.")
    ] = "",
    batch_size: Annotated[int | None, typer.Option(help="Images a forward pass.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, not scaled to the batch as the recipe's is.")] = None,
    image_size: Annotated[str, typer.Option(help="SHORT[,LONG]: pixels of the shorter side, most of the longer.")] = "",
    workers: Annotated[str, typer.Option(help="Processes that load images; 0: the training's own; auto.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "",
    precision: Annotated[str, typer.Option(help="auto (bf16 on GPUs that have it), fp32 or bf16.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, by its own settings.")] = False,
    config: Annotated[Path | None, typer.Option(help="TOML or YAML of settings, such as a run's recipe.toml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as train.ema=0.999; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan and one batch, unwritten.")] = False,
) -> None:
    """Trains a detector on your data, evaluates it after each epoch, keeps the best, and writes a report.

    Settings come, the later winning, from the recipe, --config, --set and the named flags. Keys of --set and --config
    are model.…, train.…, augment.… and data.…; a run's recipe.toml lists them all.

    rcnn train faster-rcnn/resnet18-fpn --data digits --epochs 10
    """
    from rcnn.api import train

    result = train(
        system or None,
        data or None,
        out=out or None,
        classes=cli.class_names(classes),
        recipe=recipe or None,
        scheme=scheme or None,
        rounds=rounds,
        interval=interval or None,
        epochs=epochs,
        steps=steps,
        weights=weights or None,
        batch_size=batch_size,
        lr=lr,
        image_size=_sides(image_size),
        workers=int(workers) if workers.isdecimal() else workers or None,
        device=device or None,
        precision=precision or None,
        seed=seed,
        resume=resume,
        config=config,
        settings=settings or (),
        dry_run=dry_run,
        quiet=cli.quiet(),
    )
    if result is not None:
        cli.say(f"report: {result.run / 'report.html'}")
        print(result.run)


def _sides(text: str) -> int | tuple[int, int] | None:
    """ "600" or "600,1000" as whole numbers of pixels."""
    from rcnn.errors import UserError

    if not text:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise UserError(f"--image-size {text}: expected SHORT or SHORT,LONG in pixels, such as 600,1000")
    short, long = int(sides[0]), int(sides[-1])
    if short > long:
        raise UserError(f"--image-size {text}: the shorter side, {short}, comes first")
    return (short, long) if len(sides) == 2 else short
