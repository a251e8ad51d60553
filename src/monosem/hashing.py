"""A hash of numbers, so that what is drawn at random depends on no order, no batch and no process."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FRACTION_BITS = 53


def seeded(numbers: ArrayLike, seed: int) -> NDArray[np.uint64]:
    """A hash of each number, another one for each seed.

    It is splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    x = np.asarray(numbers).astype(np.uint64)
    x = x + np.uint64((seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(hashed: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A hash as a number from 0 to below 1."""
    return np.ldexp((hashed >> np.uint64(64 - FRACTION_BITS)).astype(np.float64), -FRACTION_BITS)
