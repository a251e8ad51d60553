"""Which sentences are reserved for tests, which ones negatives are looked for in, which ones are drawn for a latent.

All of it is a hash of numbers and the run's seed: the same whatever the order, the batches and the ranks, and every
stage knows it without a list.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from monosem.hashing import seeded, uniform


class Purpose(IntEnum):
    """Keeps the draws apart from each other, and from the split of `prepare`, which hashes with the bare seed."""

    TEST = 1
    POOL = 2
    EXAMPLE = 3


def _seed(seed: int, purpose: Purpose) -> int:
    return (seed + 1) * len(Purpose) * 0x1F123BB5 + purpose


def is_test(sentence: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Whether each sentence belongs to the test set, [S]."""
    return uniform(seeded(sentence, _seed(seed, Purpose.TEST))) < fraction


def pool_order(sentence: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A number from 0 to below 1 for each sentence, [S]: those below a fraction are a sample of that size."""
    return uniform(seeded(sentence, _seed(seed, Purpose.POOL)))


def lots(latent: NDArray[np.int32], sentence: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """A lot of at least 1 for each pair of latent and sentence, [G]: the m highest of a latent are m drawn evenly.

    It is 1 / u with u uniform in (0, 1]: the highest lots are those that float32 tells apart best.
    """
    hashed = seeded(sentence, _seed(seed, Purpose.EXAMPLE)) ^ latent.astype(np.uint64)
    return (1 / (1 - uniform(seeded(hashed, 0)))).astype(np.float32)
