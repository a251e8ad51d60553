"""Exact counts of how often two latents fire on the same token.

Flow: rows of codes are gathered into blocks of about equal width; in a block, the tokens of each latent are found by a
sort, and the latents active there are counted with one `bincount`. The table holds a range of latents against all, so
that memory is bounded; another range is another pass over the codes. Knows nothing of files.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.interpret.codes import Codes
from monosem.interpret.firings import changes

BLOCK_ENTRIES = 1 << 24  # codes that are turned round at once


class PairCounts:
    """Tokens on which the latents of a range fire together with each of all n latents.

    Args:
        first, stop: the range of latents.
        n: number of latents.
    """

    def __init__(self, first: int, stop: int, n: int) -> None:
        self.first, self.stop, self.n = first, stop, n
        self.table = np.zeros((stop - first, n), dtype=np.uint32)
        """[range, n]; a latent with itself: the tokens it fires on."""
        self.fires = np.zeros(n, dtype=np.int64)
        """[n] tokens that each latent fires on."""
        self.rows = 0
        """Tokens in all."""

    def add(self, codes: Codes) -> None:
        """Count these tokens; a code that is not larger than 0 does not fire."""
        self.rows += codes.rows
        self.fires += np.bincount(codes.latent[codes.value > 0], minlength=self.n)
        for rows in self._by_width(codes):
            flat = rows.reshape(-1)
            inside = np.flatnonzero((flat >= self.first) & (flat < self.stop))
            latent, order = torch.sort(torch.from_numpy(flat[inside]), stable=True)
            latent, row = latent.numpy(), inside[order.numpy()] // rows.shape[1]
            starts = np.flatnonzero(changes(latent))
            for number, tokens in zip(latent[starts], np.split(row, starts[1:]), strict=False):
                together = np.bincount(rows[tokens].reshape(-1), minlength=self.n + 1)
                self.table[number - self.first] += together[:-1].astype(np.uint32)

    def _by_width(self, codes: Codes) -> Iterator[NDArray[np.int32]]:
        """Blocks [T, width] of the latents of T tokens, padded with n: in one block no token has twice as many as
        another, so that little is padding."""
        fires = codes.value > 0
        active = np.bincount(codes.row()[fires], minlength=codes.rows)
        latent = codes.latent[fires].astype(np.int32)
        starts = np.cumsum(active) - active
        kind = np.frexp(active)[1]
        for one in np.unique(kind[active > 0]):
            rows = np.flatnonzero(kind == one)
            width = int(active[rows].max())
            for some in np.array_split(rows, -(-len(rows) * width // BLOCK_ENTRIES)):
                place = starts[some, None] + np.arange(width)
                there = np.arange(width) < active[some, None]
                yield np.where(there, latent[np.where(there, place, 0)], np.int32(self.n))
