"""The best sentences of every latent, kept while the corpus streams by in the order of its sentences.

Flow: `offer` throws away what cannot enter a latent's list any more (a threshold for each latent), keeps the rest with
its firing tokens, and merges from time to time. The lists are exact: they do not depend on when merges happen. Memory
is bounded by n x top entries and one block. Knows nothing of SAEs or files.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.interpret.firings import Firings, changes

MERGE_AFTER = 1 << 19  # waiting candidates, at least, before a merge


class Entries(NamedTuple):
    """M scored pairs of latent and sentence, with the P tokens where the latent fires."""

    latent: NDArray[np.int32]
    """[M]"""
    sentence: NDArray[np.int64]
    """[M]"""
    score: NDArray[np.float32]
    """[M]"""
    length: NDArray[np.int32]
    """[M]: firing tokens of each; their positions and values stand one after the other below."""
    position: NDArray[np.int32]
    """[P]"""
    value: NDArray[np.float32]
    """[P]"""

    def take(self, chosen: NDArray[np.integer]) -> "Entries":
        """The chosen entries, in that order."""
        starts = np.cumsum(self.length, dtype=np.int64) - self.length
        length = self.length[chosen]
        tokens = spread(starts[chosen], length)
        return Entries(
            self.latent[chosen],
            self.sentence[chosen],
            self.score[chosen],
            length,
            self.position[tokens],
            self.value[tokens],
        )


class Ranking:
    """Up to `top` sentences for each of n latents: highest score first, of equal scores the lowest sentence."""

    def __init__(self, n: int, top: int) -> None:
        self.n, self.top = n, top
        self._threshold = np.zeros(n, dtype=np.float32)
        self._kept = empty()
        self._waiting: list[Entries] = []

    @classmethod
    def restore(cls, n: int, top: int, kept: Entries) -> "Ranking":
        """Go on from the `entries()` of an earlier ranking."""
        ranking = cls(n, top)
        ranking._kept = kept
        ranking._set_threshold()
        return ranking

    def offer(self, firings: Firings, score: NDArray[np.float32]) -> None:
        """Consider the groups of a block; sentences must be beyond all that were offered before.

        A later sentence loses a tie, so only a score strictly above the threshold can enter; a score of 0 never does.
        """
        chosen = np.flatnonzero(score > self._threshold[firings.latent])
        length = np.diff(firings.offsets)[chosen].astype(np.int32)
        tokens = spread(firings.offsets[chosen], length)
        self._waiting.append(
            Entries(
                firings.latent[chosen],
                firings.sentence[chosen],
                score[chosen],
                length,
                firings.position[tokens],
                firings.value[tokens],
            )
        )
        if sum(len(entries.latent) for entries in self._waiting) >= max(MERGE_AFTER, len(self._kept.latent) // 4):
            self._merge()

    def entries(self) -> Entries:
        """The lists so far, by latent, then rank."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        if not self._waiting:
            return
        joined = concatenate([self._kept, *self._waiting])
        self._waiting = []
        order = _best_first(joined.latent, joined.score)
        self._kept = joined.take(order[rank_within(joined.latent[order]) < self.top])
        self._set_threshold()

    def _set_threshold(self) -> None:
        """A full list's lowest score; 0 for a list with room."""
        full = np.flatnonzero(rank_within(self._kept.latent) == self.top - 1)
        self._threshold[:] = 0
        self._threshold[self._kept.latent[full]] = self._kept.score[full]


def _best_first(latent: NDArray[np.int32], score: NDArray[np.float32]) -> NDArray[np.int64]:
    """The order by latent, then falling score; equal scores stay in order of arrival, which is that of sentences.

    Scores are positive, so their bits grow with them, and two stable radix sorts of 32-bit integers do it.
    """
    by_score = torch.sort(torch.from_numpy(-score.view(np.int32)), stable=True).indices
    return by_score[torch.sort(torch.from_numpy(latent)[by_score], stable=True).indices].numpy()


def rank_within(sorted_latent: NDArray[np.int32]) -> NDArray[np.int64]:
    """Place of each element within its run of equal latents, from 0."""
    first = np.flatnonzero(changes(sorted_latent))
    run = np.diff(first, append=len(sorted_latent))
    return np.arange(len(sorted_latent)) - np.repeat(first, run)


def spread(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers `starts[i]:starts[i] + lengths[i]` of all i, one after the other."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(starts - before, lengths)


def concatenate(parts: list[Entries]) -> Entries:
    """Several entries as one."""
    return Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def empty() -> Entries:
    """No entries."""
    integers, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return Entries(integers, np.zeros(0, np.int64), floats, integers, integers, floats)
