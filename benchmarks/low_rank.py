"""Fast R-CNN's head before and after truncated SVD: `python benchmarks/low_rank.py [ROUNDS] [REGIONS]`.

VGG16's sizes (25,088 → 4,096 → 4,096, 20 classes), random weights, ranks 1,024 and 256 (Girshick 2015, section 4.4), on
2,000 regions in fp32. Both heads run in turn after one round to warm up; medians, and the ratio of each round's pair.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from rcnn.heads import BoxHead, BoxHeadOptions, SharedFC
from rcnn.process import tune_process

CLASSES, RANKS = 20, (1024, 256)


def head_of(ranks: tuple[int, ...]) -> BoxHead:
    """A box head of VGG16's sizes."""
    trunk = SharedFC(512 * 7 * 7, (4096, 4096))
    return BoxHead(trunk, trunk.channels, CLASSES, BoxHeadOptions(ranks=ranks)).eval()


def main() -> None:
    """Prints the medians."""
    tune_process()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    regions = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    heads = [head_of(()), head_of(RANKS)]
    pooled = torch.rand(1, regions, 512, 7, 7)
    times: tuple[list[float], ...] = ([], [])
    with torch.inference_mode():
        for number in range(rounds + 1):
            for head, taken in zip(heads, times, strict=True):
                start = time.perf_counter()
                head(pooled)
                if number:
                    taken.append(time.perf_counter() - start)
    ratios = [whole / split for whole, split in zip(*times, strict=True)]
    whole, split = (statistics.median(taken) for taken in times)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {regions} regions, ranks {RANKS}")
    print(f"whole {whole:.3f} s, split {split:.3f} s, ratio of medians {whole / split:.2f}")
    print(f"ratio of pairs: median {statistics.median(ratios):.2f}, lowest {min(ratios):.2f}")


if __name__ == "__main__":
    main()
