"""Triton's kernels: run by its interpreter against plain torch, compiled for GPUs that are not here, chosen or not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from rcnn.kernels import forms

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not here")

CASES = [
    "roi_align",
    "roi_align, adaptive samples",
    "roi_align, the first releases' rule",
    "roi_align, more bins and channels than a program holds",
    "roi_pool",
    "roi_pool, more bins and channels than a program holds",
    "ps_roi_pool, caffe",
    "ps_roi_pool, torchvision",
    "ps_roi_pool, align",
    "ps_roi_pool, align with adaptive samples",
    "bfloat16",
    "float16",
    "no RoIs",
    "nms",
    "nms in segments",
    "match",
]


def run(script: str, *arguments: str, **environment: str) -> dict:
    """What a script beside this file prints."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    """What became of each case: one process for all, since Triton takes its time to start."""
    return run("interpreted.py", OMP_NUM_THREADS="1")


@needs_triton
@pytest.mark.timeout(900)  # a busy machine
@pytest.mark.parametrize("case", CASES)
def test_each_kernel_equals_plain_torch(interpreted, case):
    assert set(interpreted) == set(CASES)
    assert "error" not in interpreted[case], interpreted[case]["error"]
    assert interpreted[case]["compared"] > 1
    assert interpreted[case]["beyond"] <= 0


# How many different kernels the calls of `compiled.py` need: one for each option, and none for an image's size.
NEEDED = {
    "roi_align._forward": 2,
    "roi_align._backward": 2,
    "roi_pool._maxima": 2,  # values and pixels
    "roi_pool._backward": 1,
    "ps_roi_pool._forward": 3,
    "ps_roi_pool._backward": 3,
}
OF_BOXES = {
    "nms._suppressed_before": 2,  # with groups and without
    "nms._overlaps": 2,
    "nms._walk": 1,
    "matching._best_truths": 2,  # shared anchors, and boxes of each image of which some are eligible
    "matching._best_boxes": 2,
}


@needs_triton
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("capability", "dtype", "needed"),
    [
        ("80", "float32", NEEDED | OF_BOXES),
        pytest.param("80", "bfloat16", NEEDED, marks=pytest.mark.slow),
        pytest.param("90", "float32", NEEDED | OF_BOXES, marks=pytest.mark.slow),
        pytest.param("90", "bfloat16", NEEDED, marks=pytest.mark.slow),
        pytest.param("90", "float16", NEEDED, marks=pytest.mark.slow),
    ],
)
def test_they_compile_for_a_gpu_once_for_all_sizes_and_nothing_waits(tmp_path, capability, dtype, needed):
    found = run("compiled.py", capability, dtype, TRITON_CACHE_DIR=str(tmp_path))
    assert found == {"kernels": needed, "waiting": []}


def test_triton_is_imported_at_the_first_call_only():
    program = "import sys, rcnn, rcnn.kernels; print('triton' in sys.modules, 'rcnn.kernels.cuda' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


@pytest.fixture
def fresh_choice():
    """`form` forgets what it chose, before and after."""
    forms.form.cache_clear()
    yield
    forms.form.cache_clear()


def stand_in(error: Exception | None) -> types.ModuleType:
    """A module of kernels whose check raises `error`."""
    module = types.ModuleType("rcnn.kernels.cuda")

    def check() -> None:
        if error is not None:
            raise error

    module.check = check
    return module


def test_gpus_take_tritons_form_where_it_runs(monkeypatch, fresh_choice):
    module = stand_in(None)
    monkeypatch.setitem(sys.modules, "rcnn.kernels.cuda", module)
    assert forms.form("cuda") is module


@pytest.mark.filterwarnings("error")
def test_without_triton_or_on_old_gpus_torchvisions_operators_run(monkeypatch, fresh_choice):
    monkeypatch.setitem(sys.modules, "rcnn.kernels.cuda", None)
    assert forms.form("cuda").__name__ == "rcnn.kernels.torchvision_ops"
    forms.form.cache_clear()
    monkeypatch.setitem(sys.modules, "rcnn.kernels.cuda", stand_in(ImportError("Tesla K80 is too old")))
    assert forms.form("cuda").__name__ == "rcnn.kernels.torchvision_ops"


def test_kernels_that_do_not_compile_are_told_and_replaced(monkeypatch, fresh_choice):
    monkeypatch.setitem(sys.modules, "rcnn.kernels.cuda", stand_in(RuntimeError("no C compiler\nmore")))
    with pytest.warns(UserWarning, match="do not run here, torchvision's take their place: no C compiler$"):
        assert forms.form("cuda").__name__ == "rcnn.kernels.torchvision_ops"


def test_apples_gpus_keep_the_plain_form():
    assert forms.form("mps").__name__ == "rcnn.kernels.reference"


@needs_triton
def test_float64_goes_to_torchvision():
    program = (
        "import torch; from rcnn.kernels import cuda, reference; m = [torch.rand(1, 2, 6, 5, dtype=torch.float64)];"
        "a = (m, torch.tensor([[[1.0, 2, 17, 14]]]), torch.zeros(1, 1).long(), [4.0], 2, 2, True);"
        "print(torch.allclose(cuda.roi_align(*a), reference.roi_align(*a)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "True"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_a_gpu_every_form_agrees():
    """The same cases as in the interpreter, on the GPU itself."""
    results = run("interpreted.py", RCNN_TEST_DEVICE="cuda")
    assert {name: result for name, result in results.items() if result.get("beyond", 1) > 0} == {}
