"""How the cost of a training step grows: `python benchmarks/growth.py [ROUNDS] [WHAT…]`.

Faster R-CNN `resnet18-fpn` in fp32 as in `training.py`, with one thing after the other made smaller and larger: the
side of the images, objects an image, classes, regions sampled an image. Sides, each in its own process, in turn:
torchvision as it is and ours; the table holds medians in milliseconds and their ratio.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from processes import alternate, medians, processor
from training import Load, measure

BACKBONE = "resnet18-fpn"
SIDES = ("torchvision", "ours")
VALUES = {
    "side": (256, 512, 1024),
    "objects": (1, 8, 64, 512),
    "classes": (1, 20, 90, 1000),
    "regions": (64, 512, 2000),
}


def main() -> None:
    """Prints the table, or one side's line."""
    words = sys.argv[1:]
    if words and words[0] in SIDES:
        measure(words[0], BACKBONE, replace(Load(), **json.loads(words[1])))
        return
    rounds = int(words[0]) if words else 1
    print(f"{processor()}; {BACKBONE}, {Load()} but for")
    print(f"{'':20}{'torchvision ms':>16}{'ours ms':>10}{'ratio':>8}")
    for what in words[1:] or VALUES:
        for value in VALUES[what]:
            found = alternate(__file__, SIDES, [json.dumps({what: value})], rounds)
            theirs, ours = (medians(found[side])["ms"] for side in SIDES)
            print(f"{what:10}{value:10}{theirs:16.0f}{ours:10.0f}{theirs / ours:8.2f}", flush=True)


if __name__ == "__main__":
    main()
