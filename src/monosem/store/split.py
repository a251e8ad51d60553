"""Which sentences are held out."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monosem.hashing import seeded, uniform


def is_validation(sentence_ids: ArrayLike, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Whether each sentence is held out: every stage knows it from the number, without a list."""
    return uniform(seeded(sentence_ids, seed)) < fraction
