"""Counter-based random numbers: a value depends on its counters alone, so order, workers and restarts cannot matter.

The mixing function is splitmix64 (Steele, Lea, Flood 2014, figure 15): 64-bit integer arithmetic only, hence the same
on every platform and with every version of every library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, made odd
_MASK = (1 << 64) - 1


def _mix(word: int) -> int:
    """Scatters one 64-bit word; a bijection."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def counter_seed(*counters: int) -> int:
    """A seed in 0 … 2^63 − 1 that depends on every counter and on their order, e.g. (seed, step, position)."""
    state = 0
    for counter in counters:
        state = _mix((state + counter + _STEP) & _MASK)
    return state >> 1


def counter_words(seed: int, count: int) -> np.ndarray:
    """The first `count` words of the stream of `seed`: uint64 [count]."""
    word = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP) + np.uint64(seed & _MASK)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def permutation(seed: int, count: int) -> np.ndarray:
    """A shuffle of 0 … count − 1 that depends on `seed` alone: int64 [count]."""
    return np.argsort(counter_words(seed, count), kind="stable").astype(np.int64)


class Draws:
    """A stream of integer draws from a seed, for generators that must be byte-identical everywhere."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def word(self) -> int:
        """The next word of the stream, in 0 … 2^64 − 1."""
        self._state = (self._state + _STEP) & _MASK
        return _mix(self._state)

    def integer(self, low: int, high: int) -> int:
        """A whole number in low … high, both ends included, all equally likely."""
        return low + (self.word() * (high - low + 1) >> 64)

    def reciprocal(self, low: int, high: int) -> int:
        """A whole number x in low … high drawn in proportion to 1/x: log-uniform without a logarithm."""
        while True:
            number = self.integer(low, high)
            if self.integer(1, number) <= low:
                return number

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.integer(1, 100) <= percent

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, all equally likely."""
        return choices[self.integer(0, len(choices) - 1)]

    def bytes(self, *shape: int) -> np.ndarray:
        """Noise 0 … 255 of any `shape`: uint8 [...]."""
        count = int(np.prod(shape))
        words = counter_words(self.word(), -(-count // 8)).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape)
