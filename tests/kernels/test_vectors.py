"""Sums over taps in vector registers, against the same sums in plain numpy."""

import numpy as np
import pytest

pytest.importorskip("numba")

import numba

from rcnn.kernels.cpu.vectors import LONG, prefetch, weighted_sum

UNTOUCHED = 7.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [*range(1, 2 * LONG + 2), 81, 256])
@pytest.mark.parametrize("taps", [0, 1, 9])
def test_weighted_sum_equals_numpy_and_touches_nothing_else(dtype, length, taps):
    random = np.random.default_rng(length + taps)
    values, weights = random.normal(size=1000).astype(dtype), random.normal(size=9).astype(dtype)
    starts = random.integers(0, len(values) - length, 9)
    starts[:1] = len(values) - length  # up to the last element
    sums = np.full(length + 40, UNTOUCHED, dtype)
    weighted_sum(values, starts, weights, taps, length, sums, 20)
    expected = sum((weights[t] * values[starts[t] :][:length] for t in range(taps)), np.zeros(length))
    np.testing.assert_allclose(sums[20:-20], expected, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert (sums[:20] == UNTOUCHED).all()
    assert (sums[-20:] == UNTOUCHED).all()


def test_prefetch_asks_the_processor_and_changes_nothing():
    values = np.arange(100, dtype=np.float32)
    compiled = numba.njit(prefetch.py_func)  # from the cache on disk there would be no text to look at
    compiled(values, 90, 10)
    np.testing.assert_array_equal(values, np.arange(100))
    assert "llvm.prefetch" in compiled.inspect_llvm(compiled.signatures[0])


def test_arrays_with_gaps_are_refused():
    values, starts = np.zeros(40, np.float32), np.zeros(1, np.int64)
    with pytest.raises(numba.TypingError, match="without gaps"):
        weighted_sum(values[::2], starts, values, 1, 4, values, 0)
