"""The geometric median of a store's activations: the point with the least summed distance to them.

Weiszfeld's iteration over the shards as they lie on disk, begun at the mean: each round reads all rows once, and the
median moves to their mean weighted by the inverse of their distances. The rows are summed in fixed groups of shards, so
that the result does not depend on how many threads or ranks share them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.store.shards import ShardFile, file_in, write

FILE = "geometric-median.safetensors"
GROUPS = 64  # that work can be shared out in
ROUNDS, TOLERANCE = 100, 1e-7  # of the median's norm, that the last round may still move it
BLOCK_ROWS = 1024  # a block in float64 stays in the cache
NEAREST = 1e-12  # a row at the median itself would weigh infinitely


class Sums(NamedTuple):
    """Over some rows, around one point."""

    weighted: NDArray[np.float64]
    """`[d]`, of the rows over their distances."""
    weights: float
    """Of one over the distances."""


def groups(shards: Sequence[str]) -> list[Sequence[str]]:
    """The names of shards in at most `GROUPS` groups."""
    return [shards[first::GROUPS] for first in range(min(GROUPS, len(shards)))]


def sums_of(shards: Iterable[Path], centre: NDArray[np.float64]) -> Sums:
    """One round over the rows of some shards."""
    around = torch.from_numpy(centre)
    weighted, weights = torch.zeros_like(around), 0.0
    for file in map(ShardFile, shards):
        for start in range(0, file.rows, BLOCK_ROWS):
            x = file.activations(start, min(start + BLOCK_ROWS, file.rows)).double()
            inverse = 1 / torch.linalg.vector_norm(x - around, dim=1).clamp_min_(NEAREST)
            weighted += inverse @ x
            weights += float(inverse.sum())
    return Sums(weighted.numpy(), weights)


def iterate(start: NDArray[np.float64], around: Callable[[NDArray[np.float64]], Sequence[Sums]]) -> NDArray[np.float64]:
    """`[d]`, the median.

    Args:
        start: `[d]`, such as the mean.
        around: the sums of all groups around a point.
    """
    median = start
    for _ in range(ROUNDS):
        parts = around(median)
        moved = np.sum([part.weighted for part in parts], axis=0) / sum(part.weights for part in parts)
        step = float(np.linalg.norm(moved - median))
        median = moved
        if step <= TOLERANCE * float(np.linalg.norm(median)):
            break
    return median


def save(folder: Path, median: NDArray[np.float64]) -> None:
    write(folder / FILE, {"median": torch.from_numpy(median)})


def load(folder: Path) -> NDArray[np.float64] | None:
    """`[d]`, of the training activations of a `batches` folder. None: `prepare` was not asked for it.

    Raises:
        StoreError: the file is damaged.
    """
    where = file_in(folder, FILE)
    if isinstance(where, Path) and not where.exists():
        return None
    return ShardFile(where).read("median").numpy()
