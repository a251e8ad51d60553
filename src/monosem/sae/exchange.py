"""What the arithmetic of an SAE asks of other processes: of those with other latents, and with other activations.

Processes form a mesh: along `latent` each holds some of the latents and sees the same activations, along `data` each
sees others of the batch. One process alone has all of both, so everything here returns at once what it was given;
`monosem.train.parallel` puts real processes behind the same calls. Knows nothing of what is exchanged, nor why.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Pending = Callable[[], Tensor]
"""A tensor on its way: the call waits for it, and gives it."""


class Line(NamedTuple):
    """A place along one direction of the mesh."""

    rank: int = 0
    ranks: int = 1


WHOLE = Line()


class Exchange:
    """One process alone. Calls that wait are made by all processes of the mesh, in the same order."""

    def __init__(self, data: Line = WHOLE, latent: Line = WHOLE) -> None:
        self.data, self.latent = data, latent

    @property
    def alone(self) -> bool:
        return self.data.ranks == self.latent.ranks == 1

    @property
    def first(self) -> bool:
        """Whether its latents are the first: what all latent ranks know alike is counted there."""
        return self.latent.rank == 0

    @property
    def lead(self) -> bool:
        """Whether it is the one process that counts what all know alike."""
        return self.first and self.data.rank == 0

    def latents(self, n: int) -> range:
        """Which of `n` latents it holds; `n` divides by the latent ranks."""
        size = n // self.latent.ranks
        return range(self.latent.rank * size, (self.latent.rank + 1) * size)

    def reads(self, batch: int) -> range:
        """Which rows of a whole batch it reads, which divides by the processes; those of a data rank are neighbours."""
        size = batch // (self.data.ranks * self.latent.ranks)
        first = (self.data.rank * self.latent.ranks + self.latent.rank) * size
        return range(first, first + size)

    def whole(self, rows: int) -> int:
        """Activations of the whole batch, of which each data rank has `rows`."""
        return rows * self.data.ranks

    def evenly(self, count: int, rows: int, device: torch.device) -> Tensor:
        """Those of its `rows` activations that are among `count` evenly spaced over the whole batch: int64."""
        chosen = torch.arange(count, device=device) * self.whole(rows) // count
        if self.data.ranks == 1:
            return chosen
        own = chosen - self.data.rank * rows
        return own[(own >= 0) & (own < rows)]

    def each(self, number: int) -> list[int]:
        """The number of every latent rank."""
        return [number]

    def most(self, number: int) -> Callable[[], int]:
        """The largest number of all processes, on its way."""
        return lambda: number

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        return list(numbers)

    def add_up(self, partial: Tensor) -> Pending:
        """The sum over the latent ranks, in place of `partial`, which must not be touched before it is there."""
        return lambda: partial

    def add_data(self, partial: Tensor) -> Pending:
        """The same over the data ranks."""
        return lambda: partial

    def add_all(self, partial: Tensor) -> Pending:
        """The same over all processes."""
        return lambda: partial

    def kept(self, strengths: Tensor, k: int, width: int) -> Tensor:
        """How many of a vector's entries are among its `k` strongest of all latent ranks.

        Equal ones go to the lowest latent.

        Args:
            strengths: [B, c] of this process's entries, descending; equal ones by latent.
            width: the largest c of any latent rank, or k where that is less.

        Returns:
            [B] int64: so many of the first ones.
        """
        return torch.full((len(strengths),), min(k, width), device=strengths.device)

    def kth_largest(self, values: Tensor, k: int) -> Tensor:
        """[]: the k-th largest of the values [any number] of all processes, which together are at least k."""
        return torch.topk(values, k, sorted=False).values.min()

    def earliest(self, places: Tensor, count: int) -> int:
        """How many of the ascending int64 `places` are among the `count` lowest of all processes."""
        return min(len(places), count)

    def smallest(self, value: Tensor) -> Tensor:
        """[]: the smallest of the latent ranks' values []."""
        return value

    def gather_data(self, entries: Tensor) -> Tensor:
        """The entries [any] of all data ranks behind one another."""
        return entries

    def gather_latents(self, rows: Tensor) -> Tensor:
        """[n, ...]: what every latent rank has of its latents, in their order."""
        return rows


ALONE = Exchange()
