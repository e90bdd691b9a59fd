"""All classes' SVMs at once against one LinearSVC a class: `python benchmarks/svm.py [N D K] [CLASSES]`.

20,000 samples, 4,096 features and 20 classes unless told. Ours is timed before and after the peer and the slower time
counts; the peer fits CLASSES of the classes (all by default), and its time is that of all where it fitted fewer. Both
have R-CNN's settings: C = 0.001, positives weigh twice, a constant feature of 10, features of mean norm 20.

Two kinds of features: `dense` (Gaussian) and `relu` (non-negative, about two of five zero, as fc7 has; liblinear skips
zeros). A quarter of the samples are objects of some class. On a busy machine take OMP_NUM_THREADS=1: the peer has one
thread anyway.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch

from rcnn.heads import svm
from rcnn.process import tune_process

C, POSITIVE_WEIGHT, BIAS_SCALE = 1e-3, 2.0, 10.0


def features_of(kind: str, samples: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, D] of mean norm 20 and targets [K, N]."""
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(4 * classes, (samples,), generator=rng)
    objects = label < classes
    if kind == "dense":
        features = torch.randn(samples, width, generator=rng)
        features[objects] += 0.1 * torch.randn(classes, width, generator=rng)[label[objects]]
    else:
        hidden = torch.randn(samples, 256, generator=rng) * torch.linspace(2, 0.2, 256)
        hidden[objects] += 0.4 * torch.randn(classes, 256, generator=rng)[label[objects]]
        features = hidden @ (torch.randn(256, width, generator=rng) / 16)
        features = (features + 0.5 * torch.randn(samples, width, generator=rng) + 0.3).clamp_(min=0)
    features *= 20 / features.norm(dim=1).mean()
    return features, torch.where(label == torch.arange(classes)[:, None], 1, -1).to(torch.int8)


def objective(features: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> float:
    """What both minimise, of one class: target [N], weight [D], bias []; in float64."""
    weight, bias = weight.double(), bias.double()
    scores = torch.cat([part.double() @ weight for part in features.split(2000)]) + bias
    errors = (1 - target * scores).clamp(min=0)
    costs = C * torch.where(target > 0, POSITIVE_WEIGHT, 1.0).double()
    return (0.5 * (weight @ weight + (bias / BIAS_SCALE) ** 2) + costs @ errors.square()).item()


def peer(features: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's weight [D] and bias [] of one class."""
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=C, class_weight={1: POSITIVE_WEIGHT}, intercept_scaling=BIAS_SCALE)
    model.fit(features.numpy(), target.numpy())
    return torch.from_numpy(model.coef_[0]), torch.tensor(model.intercept_[0])


def main() -> None:
    """Prints the table."""
    tune_process()
    warnings.simplefilter("ignore")
    numbers = [int(word) for word in sys.argv[1:]]
    samples, width, classes = numbers[:3] or (20000, 4096, 20)
    fitted = numbers[3] if len(numbers) > 3 else classes
    few = features_of("dense", 500, 64, classes)
    svm.fit(*few, bias_scale=BIAS_SCALE)  # compiles the kernels
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {samples} × {width}, {classes} classes")
    print(
        f"{'features':10}{'ours s':>9}{'peer s':>9}{'ratio':>8}  objective of ours less that of the peer, worst class"
    )
    for kind in ("dense", "relu"):
        features, targets = features_of(kind, samples, width, classes)
        ours, taken, rows = 0.0, 0.0, []
        for turn in range(2):
            start = time.perf_counter()
            weight, bias = svm.fit(features, targets, C=C, positive_weight=POSITIVE_WEIGHT, bias_scale=BIAS_SCALE)
            ours = max(ours, time.perf_counter() - start)
            if turn == 0:
                for k in range(fitted):
                    start = time.perf_counter()
                    theirs = peer(features, targets[k])
                    taken += time.perf_counter() - start
                    mine = objective(features, targets[k], weight[k], bias[k])
                    rows.append(mine / objective(features, targets[k], *theirs) - 1)
        taken *= classes / fitted
        print(f"{kind:10}{ours:9.2f}{taken:9.1f}{taken / ours:8.1f}  {max(rows):+.1e}", flush=True)


if __name__ == "__main__":
    main()
