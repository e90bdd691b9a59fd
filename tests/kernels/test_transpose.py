"""The transposition that RoI pooling ends with, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

transposing = pytest.importorskip("rcnn.kernels.cpu.transpose", reason="numba is not usable here")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns"), [(49, 256), (8, 8), (7, 9), (1, 20), (16, 3), (196, 17)])
def test_whole_blocks_and_what_is_left_of_them_are_turned(rows, columns, dtype):
    rng = np.random.default_rng(0)
    source = rng.standard_normal((rows + 1, columns + 5)).astype(dtype)
    target = np.full((columns + 2, rows + 3), 9, dtype)
    expected = target.copy()
    expected[:columns, :rows] = source[:rows, :columns].T
    transposing.transpose(source, rows, columns, target)
    assert np.array_equal(target, expected), "and nothing else is touched"
