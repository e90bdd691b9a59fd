"""The generations on one small set of photographs: `python benchmarks/generations.py VOC WEIGHTS OUT [SYSTEM…]`.

VOC is a data set in VOC's layout with cats, cows, dogs, horses, sheep and people, WEIGHTS a classifier's file for
MobileNetV2. Trains each SYSTEM (all four unless named) in a process of its own on the first 150 images of `train` that
show one of these classes, judges it on the first 100 such images of `val`, both by name, and prints its AP50, its time
and its command. Systems that take regions get 1,000 an image from Selective Search.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

CLASSES = ("cat", "cow", "dog", "horse", "sheep", "person")
SIZES = {"train": 150, "val": 100}
REGIONS = "--set model.regions.count=1000"
IMAGES = "--image-size 375,500 --batch-size 4 --epochs 8 --set augment.photometric=0 --set augment.zoom_out=0 "
PYRAMID = "--set model.backbone.levels=torchvision"
SIZES_OF_ANCHORS = "[32,64,128,256,512]"
SYSTEMS = {
    "rcnn/mobilenetv2": f"{REGIONS} --set model.warp.size=80 --batch-size 1 --epochs 1",
    # On the classifier's last map, with no layer between its cells and the SVMs that 150 images would have to teach.
    "sppnet/mobilenetv2-skip": (
        f"--image-size 600,800 --batch-size 4 --epochs 2 {REGIONS} --set model.hidden=[] --set model.spp.levels=[4,1]"
    ),
    "fast-rcnn/mobilenetv2-fpn": f"{IMAGES}{REGIONS} {PYRAMID}",
    "faster-rcnn/mobilenetv2-fpn": (
        f"{IMAGES}{PYRAMID} --set model.anchors.sizes=[{','.join([SIZES_OF_ANCHORS] * 3)}]"
    ),
}


def subset(voc: Path, folder: Path) -> None:
    """A VOC folder with the images of `SIZES`; photographs and annotations stay where they are."""
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for name in ("Annotations", "JPEGImages"):
        if not (folder / name).exists():
            (folder / name).symlink_to((voc / name).resolve())
    for split, count in SIZES.items():
        names = sorted((voc / "ImageSets" / "Main" / f"{split}.txt").read_text().split())
        chosen = [name for name in names if shown(voc / "Annotations" / f"{name}.xml") & set(CLASSES)]
        (lists / f"{split}.txt").write_text("\n".join(chosen[:count]) + "\n")


def shown(annotation: Path) -> set[str]:
    """The classes of an image's objects."""
    return {str(element.text) for element in ElementTree.parse(annotation).iterfind("object/name")}


def run(system: str, data: Path, weights: Path, out: Path) -> None:
    """Trains and judges one system, and prints its row."""
    words = f"train {system} --data {data} --classes {','.join(CLASSES)} --weights {weights} {SYSTEMS[system]}"
    command = [*shlex.split(words), "--precision", "bf16", "--set", "train.eval_every=0", "--out", str(out)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rcnn", "--quiet", *command], check=True)
    trained = time.perf_counter() - start
    figures = out.with_suffix(".json")
    words = f"eval {out} --data {data} --classes {','.join(CLASSES)} --protocol voc07 --json {figures}"
    subprocess.run([sys.executable, "-m", "rcnn", "--quiet", *shlex.split(words)], check=True)
    judged = time.perf_counter() - start - trained
    score = json.loads(figures.read_text())["AP50"]
    print(f"{system:30} AP50 {score:.3f}, train {trained / 60:.1f} min, judge {judged / 60:.1f} min", flush=True)
    print(f"  rcnn {shlex.join(command)}", flush=True)


def main() -> None:
    """Makes the subset, then one row after the other."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    voc, weights, out = (Path(word).resolve() for word in sys.argv[1:4])
    subset(voc, out / "voc")
    for system in sys.argv[4:] or SYSTEMS:
        run(system, out / "voc", weights, out / system.replace("/", "-"))


if __name__ == "__main__":
    main()
