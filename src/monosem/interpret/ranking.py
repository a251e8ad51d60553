"""The sentences of highest score of every latent, kept while the corpus streams by in the order of its sentences.

A score may be a latent's strength in the sentence, or a lot: then they are drawn evenly. Flow: `offer` throws away what
cannot enter a latent's list any more (a threshold for each latent), keeps the rest with its firing tokens, and merges
from time to time. The lists are exact: they do not depend on when merges happen. Memory is bounded by n x top entries
and one block. Two rankings of different sentences `merge` into the one of all of them. Knows nothing of SAEs or files.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.interpret.firings import Firings, changes

MERGE_AFTER = 1 << 19  # waiting candidates, at least, before a merge
RANGE = 1024  # latents that are merged at once


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
    position: NDArray[np.int16]
    """[P]"""
    token: NDArray[np.int32]
    """[P] vocabulary ids."""
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
            self.token[tokens],
            self.value[tokens],
        )


class Ranking:
    """Up to `top` sentences for each of n latents: highest score first, of equal scores the lowest sentence."""

    def __init__(self, n: int, top: int) -> None:
        self.top = top
        self._threshold = np.zeros(n, dtype=np.float32)
        self._bounds = np.append(np.arange(0, n, RANGE), n)
        self._kept = [empty()] * (len(self._bounds) - 1)
        self._size = 0
        self._waiting: list[Entries] = []

    @classmethod
    def restore(cls, n: int, top: int, parts: list[Entries]) -> "Ranking":
        """Go on from the `parts()` of an earlier ranking."""
        ranking = cls(n, top)
        for number, kept in enumerate(parts):
            ranking._keep(number, kept)
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
                firings.position[tokens].astype(np.int16),
                firings.token[tokens],
                firings.value[tokens],
            )
        )
        if sum(len(entries.latent) for entries in self._waiting) >= max(MERGE_AFTER, self._size // 4):
            self._merge()

    def merge(self, other: "Ranking") -> None:
        """Take over the lists of a ranking of other sentences, which may lie before, behind or among these."""
        for number, (mine, theirs) in enumerate(zip(self.parts(), other.parts(), strict=True)):
            joined = concatenate([mine, theirs])
            joined = joined.take(np.argsort(joined.sentence, kind="stable"))
            self._keep_best(number, joined)

    def parts(self) -> list[Entries]:
        """The lists so far, by latent, then rank, in parts of `RANGE` latents."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        """Join what waits with what is kept, one range of latents after the other, so that little is held twice."""
        waiting = [_split(entries, self._bounds) for entries in self._waiting]
        self._waiting = []
        for number, kept in enumerate(self._kept):
            fresh = [parts[number] for parts in waiting if len(parts[number].latent)]
            if fresh:
                self._keep_best(number, concatenate([kept, *fresh]))

    def _keep_best(self, number: int, joined: Entries) -> None:
        """Replace a range by the best of `joined`, where of equal scores the lowest sentence comes first."""
        order = _best_first(joined.latent, joined.score)
        self._keep(number, joined.take(order[rank_within(joined.latent[order]) < self.top]))

    def _keep(self, number: int, kept: Entries) -> None:
        """Replace a range; its thresholds are full lists' lowest scores, 0 for a list with room."""
        self._size += len(kept.latent) - len(self._kept[number].latent)
        self._kept[number] = kept
        full = np.flatnonzero(rank_within(kept.latent) == self.top - 1)
        self._threshold[kept.latent[full]] = kept.score[full]


def _split(entries: Entries, bounds: NDArray[np.integer]) -> list[Entries]:
    """Entries sorted by latent, cut where the latents `bounds` begin; nothing is copied."""
    cuts = np.searchsorted(entries.latent, bounds)
    tokens = np.append(0, np.cumsum(entries.length, dtype=np.int64))[cuts]
    return [
        Entries(
            entries.latent[start:stop],
            entries.sentence[start:stop],
            entries.score[start:stop],
            entries.length[start:stop],
            entries.position[first:last],
            entries.token[first:last],
            entries.value[first:last],
        )
        for start, stop, first, last in zip(cuts[:-1], cuts[1:], tokens[:-1], tokens[1:], strict=True)
    ]


def _best_first(latent: NDArray[np.int32], score: NDArray[np.float32]) -> NDArray[np.int64]:
    """The order by latent, then falling score; equal scores stay in order of arrival, which is that of sentences.

    Scores are positive, so their bits grow with them, and two stable radix sorts of 32-bit integers do it.
    """
    by_score = torch.sort(torch.from_numpy(-score.view(np.int32)), stable=True).indices
    return by_score[torch.sort(torch.from_numpy(latent)[by_score], stable=True).indices].numpy()


def highest(values: NDArray[np.floating | np.integer], most: int) -> NDArray[np.int64]:
    """Places of the `most` highest values above 0, highest first; of equal ones the first."""
    found = np.flatnonzero(values > 0)
    if len(found) > most > 0:
        least = -np.partition(-values[found], most - 1)[most - 1]
        found = found[values[found] >= least]
    return found[np.argsort(-values[found], kind="stable")][:most]


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
    return Entries(integers, np.zeros(0, np.int64), floats, integers, np.zeros(0, np.int16), integers, floats)
