"""Several reconstructions from one set of codes, each with more of the codes than the one before.

Matryoshka takes prefixes of the latents, multi-TopK the k strongest codes for several k. An entry belongs to the first
reconstruction that it takes part in; with one row for each (reconstruction, vector) every kernel serves as it is: what
it decodes is what each reconstruction adds to the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.errors import SaeError
from monosem.kernels import Pattern
from monosem.sae.exchange import ALONE, Exchange


@dataclass(frozen=True)
class Nested:
    """Which reconstructions a loss takes in, and with which weights.

    Raises:
        SaeError: sizes that do not ascend, or weights that do not fit them.
    """

    sizes: tuple[int, ...]
    """Ascending: latents of each prefix, or codes of each k."""
    weights: tuple[float, ...]
    """One for each."""
    by: str
    """`latent` or `rank`."""
    main: int
    """The reconstruction that the SAE gives when it is used."""

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise SaeError(f"sizes {list(self.sizes)} of nested reconstructions must ascend from at least 1")
        if len(self.weights) != len(self.sizes):
            raise SaeError(f"{len(self.weights)} weights for {len(self.sizes)} nested reconstructions")

    @classmethod
    def matryoshka(cls, prefixes: Sequence[int], n: int) -> "Nested":
        """The mean over prefixes of the latents, the whole dictionary being the last.

        Bussmann et al. (2025), "Learning multi-level features with Matryoshka SAEs" (arXiv 2503.17547), section 3.
        """
        sizes = (*(size for size in prefixes if size != n), n)
        return cls(sizes, (1 / len(sizes),) * len(sizes), "latent", len(sizes) - 1)

    @classmethod
    def multi_topk(cls, k: int, others: Sequence[int], weight: float) -> "Nested":
        """The loss at `k`, and `weight` times the loss at every other number of codes.

        Gao et al. (2024), "Scaling and evaluating sparse autoencoders", section 5.2, has L(k) + L(4k) / 8.
        """
        sizes = tuple(sorted({k, *others}))
        return cls(sizes, tuple(1.0 if size == k else weight for size in sizes), "rank", sizes.index(k))

    @property
    def count(self) -> int:
        """G."""
        return len(self.sizes)

    def group(self, pattern: Pattern, values: Tensor, exchange: Exchange = ALONE) -> Tensor:
        """[nnz] int64: the first reconstruction that each entry takes part in."""
        borders = torch.tensor(self.sizes[:-1], device=values.device)
        if self.by == "latent":
            return torch.searchsorted(borders, pattern.indices + exchange.latent.rank * pattern.n, right=True)
        row = pattern.row_of_entry()
        strongest = torch.argsort(values.abs(), descending=True, stable=True)
        order = strongest[torch.argsort(row[strongest], stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - pattern.offsets[row[order]]
        if exchange.latent.ranks == 1:
            return torch.searchsorted(borders, rank, right=True)
        # of a vector's codes the other latent ranks hold some: of each number of codes, so many are found here
        width = min(self.sizes[-1], pattern.n)
        strengths = values.new_full((pattern.rows, width), -torch.inf)
        strengths[row, rank] = values.abs()
        group = torch.zeros_like(rank)
        for size in self.sizes[:-1]:
            group += rank >= exchange.kept(strengths, size, width)[row]
        return group


class Regrouped(NamedTuple):
    """A pattern with one row for each (reconstruction, vector), reconstructions outermost."""

    pattern: Pattern
    """G * B rows."""
    order: Tensor
    """[nnz] int64: `values[order]` brings the first pattern's values into this one's order."""


def regroup(pattern: Pattern, group: Tensor, count: int) -> Regrouped:
    """Split the rows of `pattern` by `group [nnz]`, numbers below `count`."""
    row = group * pattern.rows + pattern.row_of_entry()
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=count * pattern.rows)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Regrouped(Pattern(pattern.indices[order], offsets, pattern.n), order)
