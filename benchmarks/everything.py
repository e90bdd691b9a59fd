"""All benchmarks that need no training, one after the other: `make bench`, or `python benchmarks/everything.py [FILE]`.

Each runs in a process of its own and prints its table, with absolute figures of both sides and their ratio; what was
printed is also kept in FILE (bench.txt), below the processor, the versions and the date. Forty minutes on two cores;
whatever else runs meanwhile takes from both sides, but not evenly.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

from processes import processor

SCRIPTS = {
    "Kernels against torchvision's operators": "kernels",
    "Predictions against torchvision's detectors": "inference",
    "Training steps against torchvision's": "training",
    "How the cost of a training step grows": "growth",
    "Decoded and augmented images a second": "loading",
    "COCO's figures against pycocotools": "evaluation",
    "Selective Search against OpenCV contrib's": "selective_search",
    "All classes' SVMs against scikit-learn's": "svm",
    "Fully connected layers, whole and as truncated SVD": "low_rank",
    "Faster R-CNN's head and R-FCN's": "rfcn_head",
    "What an image costs each generation": "lineage",
    "What kernels add to a first prediction": "cold_start",
    "Five hundred objects in one image": "crowd_memory",
}


def main() -> None:
    """Runs them; what fails is said in its place, and in the exit status."""
    folder = Path(__file__).parent
    failed = []
    with open(sys.argv[1] if len(sys.argv) > 1 else "bench.txt", "w", encoding="utf-8") as kept:

        def say(text: str) -> None:
            print(text, flush=True)
            print(text, file=kept, flush=True)

        say(f"{processor()}, {datetime.date.today()}")
        for title, script in SCRIPTS.items():
            say(f"\n{title} (benchmarks/{script}.py)")
            call = [sys.executable, str(folder / f"{script}.py")]
            with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                for line in process.stdout or ():
                    say(line.rstrip())
            if process.returncode:
                failed.append(script)
                say(f"{script} failed")
    sys.exit(", ".join(failed) + " failed" if failed else 0)


if __name__ == "__main__":
    main()
