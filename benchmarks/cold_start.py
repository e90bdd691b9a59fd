"""What the kernels add to a first prediction: `python benchmarks/cold_start.py [ROUNDS] [SYSTEM/BACKBONE…]`.

Each process makes a model and predicts a small image three times. "Kernels" is the time to import numba and, for each
kernel that the prediction calls, to compile it or to load it from the cache; "first" is by how much the first
prediction took longer than the third, which also packs weights for the fast form and warms up torch. Once with an empty
cache, as after an installation, and once more with that cache, as in every later process; medians in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

from processes import alternate, medians, processor

SYSTEMS = ("faster-rcnn/mobilenetv3-fpn", "mask-rcnn/resnet18-fpn", "rfcn/resnet18")
SIDES = ("empty", "later")
SIDE = 96  # pixels of the image


def measure(system: str, cache: str) -> None:
    """Prints the two figures of this process."""
    os.environ["NUMBA_CACHE_DIR"] = cache
    import numpy as np

    import rcnn

    rcnn.tune_process()
    model = rcnn.create(system, classes=[str(k) for k in range(20)])
    image, kernels, times = np.zeros((SIDE, SIDE, 3), np.uint8), [imported()], []
    watch(kernels)
    for _ in range(3):
        start = time.perf_counter()
        model.predict(image)
        times.append(time.perf_counter() - start)
    print(json.dumps({"kernels": [sum(kernels)], "first": [kernels[0] + times[0] - times[2]]}))


def imported() -> float:
    """Seconds to import the kernels, and numba with them, which the first prediction would do."""
    start = time.perf_counter()
    from rcnn import kernels

    kernels.form("cpu")
    return time.perf_counter() - start


def watch(spent: list[float]) -> None:
    """Appends the seconds of each compilation or loading of a kernel from now on; those inside another count once.

    Of threads that wait for the same kernel the first one's time counts.
    """
    from numba.core.dispatcher import Dispatcher

    compile_for, inside = Dispatcher._compile_for_args, []

    def timed(self: Dispatcher, *arguments: object, **options: object) -> object:
        outermost = not inside
        inside.append(self)
        start = time.perf_counter()
        try:
            return compile_for(self, *arguments, **options)
        finally:
            inside.pop()
            if outermost:
                spent.append(time.perf_counter() - start)

    Dispatcher._compile_for_args = timed


def main() -> None:
    """Prints the table, or one process's figures."""
    words = sys.argv[1:]
    if words and words[0] in SIDES:
        measure(*words[1:])
        return
    rounds = int(words[0]) if words else 3
    print(processor())
    print(f"{'':30}{'empty cache: kernels':>22}{'first':>8}{'later: kernels':>18}{'first':>8}")
    for system in words[1:] or SYSTEMS:
        runs = {side: [] for side in SIDES}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for side, found in alternate(__file__, SIDES, [system, cache], 1).items():
                    runs[side] += found
        empty, later = (medians(runs[side]) for side in SIDES)
        row = f"{empty['kernels']:22.2f}{empty['first']:8.2f}{later['kernels']:18.2f}{later['first']:8.2f}"
        print(f"{system:30}{row}", flush=True)


if __name__ == "__main__":
    main()
