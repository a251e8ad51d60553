"""Mean, variance and norms of activations, in one pass and mergeable in any grouping.

Blocks are summed in float64 around one of their rows and merged (Chan, Golub and LeVeque 1979, "Updating formulae and a
pairwise algorithm for computing sample variances"; Welford 1962 is the same for one value at a time).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.errors import StoreError
from monosem.store.shards import ShardFile, file_in, write

FILE = "statistics.safetensors"
BLOCK_ROWS = 1024  # a block in float64 stays in the cache
BINS_PER_OCTAVE = 64  # of norms: a quantile is within 0.55 %
OCTAVES = 64  # above and below 1
BINS = 2 * OCTAVES * BINS_PER_OCTAVE


@dataclass(frozen=True)
class Statistics:
    """What is known of a set of activations."""

    count: int
    mean: NDArray[np.float64]
    """`[d]`"""
    variance: NDArray[np.float64]
    """`[d]`, divided by the count."""
    norms: NDArray[np.int64]
    """`[BINS]`, how many norms lie in each bin of equal ratio."""

    @classmethod
    def empty(cls, d: int) -> "Statistics":
        return cls(0, np.zeros(d), np.zeros(d), np.zeros(BINS, dtype=np.int64))

    @classmethod
    def of(cls, x: Tensor) -> "Statistics":
        """Of the rows of `x [rows, d]`, which are finite."""
        return merge([cls.empty(x.shape[1]), *(_of_block(block) for block in x.split(BLOCK_ROWS) if len(block))])

    @classmethod
    def load(cls, folder: Path) -> "Statistics":
        """Of the training activations of a `batches` folder.

        Raises:
            StoreError: the file is missing or damaged.
        """
        return cls.read(ShardFile(file_in(folder, FILE)))

    @classmethod
    def read(cls, file: ShardFile) -> "Statistics":
        """From a file that holds `tensors()`, beside others perhaps."""
        names = list(cls.empty(0).tensors())
        if not set(names) <= set(file.fields):
            raise StoreError(f"{file.path}: expected {', '.join(names)}; make it again with --redo prepare")
        count, mean, variance, norms = (file.read(name).numpy() for name in names)
        return cls(int(count[0]), mean, variance, norms)

    def save(self, folder: Path) -> None:
        """As `statistics.safetensors`."""
        write(folder / FILE, self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds them."""
        arrays = {"count": np.array([self.count]), "mean": self.mean, "variance": self.variance, "norms": self.norms}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    @property
    def total_variance(self) -> float:
        """E|x - mean|^2."""
        return float(self.variance.sum())

    @property
    def mean_norm(self) -> float:
        """E|x|, within 0.55 %.

        Raises:
            ValueError: there are no activations.
        """
        if not self.count:
            raise ValueError("no activations, so no mean of their norms")
        middles = 2.0 ** ((np.arange(BINS) + 0.5) / BINS_PER_OCTAVE - OCTAVES)
        return float(middles @ self.norms / self.count)

    def norm_quantile(self, q: float) -> float:
        """The norm below which a share `q` of the activations lies, within 0.55 %.

        Raises:
            ValueError: there are no activations.
        """
        if not self.count:
            raise ValueError("no activations, so no quantile of their norms")
        number = np.searchsorted(self.norms.cumsum(), max(q * self.count, 1))
        return float(2.0 ** ((number + 0.5) / BINS_PER_OCTAVE - OCTAVES))


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all rows together, merged in the order given; at least one part."""
    return reduce(_merge_two, parts)


def _merge_two(a: Statistics, b: Statistics) -> Statistics:
    """Chan et al. 1979, equation 2.1."""
    count = a.count + b.count
    if not count:
        return a
    delta, share = b.mean - a.mean, b.count / count
    variance = a.variance * (1 - share) + b.variance * share + delta**2 * (share * (1 - share))
    return Statistics(count, a.mean + delta * share, variance, a.norms + b.norms)


def _of_block(x: Tensor) -> Statistics:
    """Of few rows; sums over rows are products with a row of equal weights, which BLAS does best."""
    values = x.double()
    norms = torch.linalg.vector_norm(values, dim=1)
    shift = values[0].clone()
    values -= shift
    weights = torch.full((1, len(x)), 1 / len(x), dtype=torch.float64)
    mean = (weights @ values)[0]
    variance = ((weights @ values.mul_(values))[0] - mean**2).clamp_(min=0)
    return Statistics(len(x), (mean + shift).numpy(), variance.numpy(), _histogram(norms))


def _histogram(norms: Tensor) -> NDArray[np.int64]:
    """Counts in bins of equal ratio; a norm of 0 falls into the lowest."""
    octaves = norms.log2().clamp_(-OCTAVES, OCTAVES) + OCTAVES
    bins = (octaves * BINS_PER_OCTAVE).long().clamp_(max=BINS - 1)
    return torch.bincount(bins, minlength=BINS).numpy()
