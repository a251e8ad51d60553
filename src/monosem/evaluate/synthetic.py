"""Activations with known answers: sparse sums of the rows of a dictionary that we chose, in any amount.

Flow: settings and a seed -> dictionary, frequencies, forest, copula -> batches, each from its own seed, so that nothing
is stored and any batch can be made again. A true direction is a *feature* here, to tell it from the latents that a
dictionary learner finds. Knows nothing of SAEs; `recovery` measures what they found.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from monosem.errors import RecipeError

Part = Literal["train", "test"]
STREAMS = {"world": 0, "train": 1, "test": 2}  # of random numbers
PARENT_RATIO = 2.0
"""A parent fires at least this many times as often as its child."""


@dataclass(frozen=True)
class SyntheticSettings:
    """What the data are made of. The default scale is that of a small language model's residual stream.

    Raises:
        RecipeError: a number that cannot be.
    """

    n_true: int = 16_384
    """Features. More than `d`: they are in superposition."""
    d: int = 768
    l0: float = 32.0
    """Mean number of features active at once."""
    zipf: float = 1.0
    """Frequency falls as rank ** -zipf. 0: all alike."""
    most: float = 0.3
    """Cap on the frequency of one feature."""
    coherence: float = 0.1
    """Mean cosine of two features of one cluster; between clusters it is 0 on average."""
    clusters: int = 64
    correlation: float = 0.5
    """Share of the variance of a root feature's firing that is common to several: 0 fires all independently."""
    rank: int = 16
    """Dimensions of that common part."""
    children: float = 0.3
    """Share of features that fire only when their parent, a more frequent feature, does."""
    spread: float = 0.5
    """Standard deviation of the logarithm of a magnitude; magnitudes are lognormal with mean 1."""
    noise: float = 0.0
    """Root mean square norm of the Gaussian noise added to each vector."""
    bias: float = 0.0
    """Norm of the constant vector added to each."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_true", "d", "clusters", "rank"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("coherence", "correlation", "children"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}: expected a share in [0, 1)")
        for name in ("zipf", "spread", "noise", "bias"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} = {getattr(self, name)}: expected at least 0")
        if not 0 < self.most < 1:
            raise RecipeError(f"most = {self.most}: expected a frequency in (0, 1)")
        if not 0 < self.l0 < self.most * self.n_true:
            raise RecipeError(
                f"l0 = {self.l0}: {self.n_true} features of frequency at most {self.most} cannot add up to it; "
                f"expected between 0 and {self.most * self.n_true:g}"
            )


class TrueCodes(NamedTuple):
    """Which features made the vectors of a batch, and how strongly: B vectors, nnz entries, sorted by vector."""

    values: Tensor
    """[nnz] float32, above 0."""
    features: Tensor
    """[nnz] int64, ascending within a vector."""
    offsets: Tensor
    """[B + 1] int64: the entries of vector b are `offsets[b]` to `offsets[b + 1]`."""
    n_true: int

    def dense(self) -> Tensor:
        """[B, n_true] float32."""
        rows = torch.repeat_interleave(self.offsets.diff())
        codes = self.values.new_zeros(len(self.offsets) - 1, self.n_true)
        return codes.index_put_((rows, self.features), self.values)


class SyntheticBatch(NamedTuple):
    """Vectors and how they came about."""

    x: Tensor
    """[B, d] float32."""
    codes: TrueCodes


class Synthetic:
    """The data of some settings: `x = codes @ dictionary + bias + noise`.

    Whether features fire is decided by thresholds on Gaussian variables: those of roots share `rank` common factors
    (a Gaussian copula); a child's is its own, and it fires only in the company of its parent. Every feature's frequency
    is then exactly the one set, whatever the correlations.

    Toy data of this kind: Sharkey et al. (2022), "Taking features out of superposition with sparse autoencoders";
    hierarchies: Bussmann et al. (2025), arXiv 2503.17547, section 4.1.
    """

    dictionary: Tensor
    """[n_true, d] float32, unit rows."""
    frequency: Tensor
    """[n_true] float64, descending: the share of vectors in which a feature is active."""
    parent: Tensor
    """[n_true] int64, of a smaller index than the child; -1: a root."""
    bias: Tensor
    """[d] float32."""

    def __init__(self, settings: SyntheticSettings) -> None:
        self.settings = settings
        generator = _generator(settings.seed, "world", 0)
        self.dictionary = clustered_rows(settings, generator)
        self.frequency = zipf_frequencies(settings)
        self.parent = draw_parents(self.frequency, settings.children, generator)
        self.bias = settings.bias * _unit(torch.randn(settings.d, generator=generator))
        children = self.parent >= 0
        loadings = _unit(torch.randn(settings.n_true, settings.rank, generator=generator))
        self._loadings = loadings.mul_(math.sqrt(settings.correlation)).masked_fill_(children[:, None], 0.0)
        self._own = torch.full((settings.n_true,), math.sqrt(1 - settings.correlation)).masked_fill_(children, 1.0)
        given_parent = torch.where(children, self.frequency / self.frequency[self.parent], self.frequency)
        self._threshold = -torch.special.ndtri(given_parent).float()
        self._levels = generations(self.parent)

    def batch(self, index: int, size: int, part: Part = "train") -> SyntheticBatch:
        """Batch `index` of `size` vectors: always the same for the same arguments. Takes memory of [size, n_true].

        Args:
            index: from 0.
            size: B.
            part: `train` and `test` share no vector.
        """
        generator = _generator(self.settings.seed, part, index)
        common = torch.randn(size, self.settings.rank, generator=generator)
        drive = torch.randn(size, self.settings.n_true, generator=generator).mul_(self._own)
        active = drive.addmm_(common, self._loadings.T) > self._threshold
        for level in self._levels:
            active[:, level] &= active[:, self.parent[level]]
        features = active.nonzero()[:, 1]
        offsets = F.pad(active.sum(1).cumsum(0), (1, 0))
        spread = self.settings.spread
        values = torch.randn(len(features), generator=generator).mul_(spread).sub_(spread**2 / 2).exp_()
        x = F.embedding_bag(
            features, self.dictionary, offsets, per_sample_weights=values, mode="sum", include_last_offset=True
        ).add_(self.bias)
        if self.settings.noise:
            scale = self.settings.noise / math.sqrt(self.settings.d)
            x.add_(torch.randn(x.shape, generator=generator), alpha=scale)
        return SyntheticBatch(x, TrueCodes(values, features, offsets, self.settings.n_true))

    def batches(self, size: int, count: int, part: Part = "train") -> Iterator[SyntheticBatch]:
        """The first `count` batches."""
        for index in range(count):
            yield self.batch(index, size, part)


def clustered_rows(settings: SyntheticSettings, generator: torch.Generator) -> Tensor:
    """[n_true, d] float32 unit rows: `sqrt(coherence)` of the cluster's direction, the rest orthogonal to it."""
    centres = _unit(torch.randn(settings.clusters, settings.d, generator=generator))
    own = torch.randn(settings.n_true, settings.d, generator=generator)
    if settings.coherence == 0:
        return _unit(own)
    centre = centres[torch.randint(settings.clusters, (settings.n_true,), generator=generator)]
    own = _unit(own - centre * torch.linalg.vecdot(own, centre)[:, None])
    # once more, for the rounding
    return _unit(math.sqrt(settings.coherence) * centre + math.sqrt(1 - settings.coherence) * own)


def zipf_frequencies(settings: SyntheticSettings) -> Tensor:
    """[n_true] float64: `min(most, c * rank ** -zipf)`, with the c that makes them add up to `l0`."""
    weight = torch.arange(1, settings.n_true + 1, dtype=torch.float64) ** -settings.zipf
    low, high = 0.0, settings.most / float(weight[-1])  # at `high` every feature is at the cap
    for _ in range(100):
        middle = (low + high) / 2
        if float((weight * middle).clamp_max(settings.most).sum()) < settings.l0:
            low = middle
        else:
            high = middle
    return (weight * high).clamp_max(settings.most)


def draw_parents(frequency: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """[n_true] int64: a parent for about `share` of the features, drawn evenly from all at least twice as frequent.

    A feature without one that frequent stays a root (-1). Parents may be children themselves.
    """
    candidates = torch.searchsorted(-frequency, -PARENT_RATIO * frequency, right=True)
    drawn = (torch.rand(len(frequency), generator=generator, dtype=torch.float64) * candidates).long()
    child = torch.rand(len(frequency), generator=generator) < share
    return torch.where(child & (candidates > 0), drawn, -1)


def generations(parent: Tensor) -> list[Tensor]:
    """The children of roots, their children, and so on: [?] int64 each."""
    levels: list[Tensor] = []
    settled = parent < 0
    while not bool(settled.all()):
        level = (~settled & settled[parent]).nonzero().squeeze(1)
        levels.append(level)
        settled = settled.index_fill(0, level, True)
    return levels


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def _generator(seed: int, stream: str, index: int) -> torch.Generator:
    """Random numbers that are independent of those of every other seed, stream or index."""
    state = np.random.SeedSequence((seed, STREAMS[stream], index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
