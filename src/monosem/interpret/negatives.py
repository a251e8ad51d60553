"""Sentences in which a latent is silent: some that hold its own tokens all the same, some drawn at random.

Flow: `Pool.load` takes a sample of the sentences out of the codes, and turns it round: which sentences hold a token, in
which ones a latent fires. `own_tokens` says which tokens a latent fires on; `Pool.hard` and `Pool.random` look in the
sample. Memory is bounded by the sample. Knows nothing of text.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array

from monosem.interpret.codes import StoredCodes
from monosem.interpret.draws import is_test, pool_order
from monosem.interpret.firings import changes, group
from monosem.interpret.ranking import Entries, highest, rank_within

TOKENS = 8  # of a latent that are looked for
DRAWS = 4  # sentences drawn at random for each that is wanted


class Tokens(NamedTuple):
    """The tokens that a latent fires on, strongest first."""

    token: NDArray[np.int32]
    weight: NDArray[np.float64]
    """Share of its firing strength that is on this token."""


class Negatives(NamedTuple):
    """Sentences in which a latent is silent."""

    sentence: NDArray[np.int64]
    value: NDArray[np.float32]
    """Share, by weight, of the latent's tokens that each holds."""


class Pairs(NamedTuple):
    """A relation between sentences of a sample, by their places, and tokens or latents; none twice in a shard."""

    place: NDArray[np.int32]
    other: NDArray[np.int32]


class Pool:
    """A sample of P sentences of one side of the test split, in random order.

    Args:
        sentence: [P] their numbers.
        holds: places and the tokens that each holds.
        fires: places and the latents that fire in each.
        n: number of latents.
        seed: decides what is drawn.
    """

    def __init__(self, sentence: NDArray[np.int64], holds: Pairs, fires: Pairs, n: int, seed: int) -> None:
        self.sentence, self._seed = sentence, seed
        self._holds = _by_column(holds, len(sentence), 1 + int(holds.other.max(initial=0)))
        self._fires = _by_column(fires, len(sentence), n)
        self._silent = np.ones(len(sentence), dtype=bool)

    @classmethod
    def load(cls, codes: StoredCodes, size: int, test_fraction: float, seed: int) -> tuple["Pool", "Pool"]:
        """Samples of about `size` sentences together: outside of the test set, and of the test set."""
        fraction = size / max(codes.sentences, 1)
        numbers, holds, fires, before = [np.zeros(0, np.int64)], [], [], 0
        for shard in codes.shards:
            taken = codes.take(shard, np.flatnonzero(pool_order(codes.sentences_of(shard), seed) < fraction))
            firings = group(taken)
            holds.append(_unique(before + taken.ordinal(), taken.token))
            fires.append(
                Pairs((before + np.searchsorted(taken.sentence, firings.sentence)).astype(np.int32), firings.latent)
            )
            numbers.append(taken.sentence)
            before += len(taken.sentence)
        sentence = np.concatenate(numbers)
        order = np.argsort(pool_order(sentence, seed), kind="stable")
        in_test = is_test(sentence[order], test_fraction, seed)
        sides = []
        for side in (order[~in_test], order[in_test]):
            place = np.full(len(sentence), -1, dtype=np.int32)
            place[side] = np.arange(len(side))
            sides.append(cls(sentence[side], _placed(holds, place), _placed(fires, place), codes.n, seed))
        return sides[0], sides[1]

    def negatives(self, latent: int, own: Tokens, most: int) -> tuple[Negatives, Negatives]:
        """Up to `most` hard ones, which hold the latent's tokens, and up to `most` others at random."""
        fired = _column(self._fires, latent)
        self._silent[fired] = False
        share = self._share(own)
        hard = highest(share, most)
        self._silent[hard] = False
        drawn = self._random(latent, most)
        self._silent[fired], self._silent[hard] = True, True
        return (
            Negatives(self.sentence[hard], share[hard].astype(np.float32)),
            Negatives(self.sentence[drawn], np.zeros(len(drawn), np.float32)),
        )

    def _share(self, own: Tokens) -> NDArray[np.float64]:
        """[P]: how much of the tokens each silent sentence holds; a rare one counts more."""
        known = own.token < self._holds.shape[1]
        holders = [_column(self._holds, token) for token in own.token[known]]
        size = len(self.sentence)
        weight = own.weight[known] * np.array([np.log((1 + size) / (1 + len(places))) for places in holders])
        share = np.zeros(size)
        for places, part in zip(holders, weight / max(weight.sum(), 1e-30), strict=True):
            share[places[self._silent[places]]] += part
        return share

    def _random(self, latent: int, most: int) -> NDArray[np.int64]:
        """Places of silent sentences, drawn evenly."""
        random = np.random.default_rng((self._seed, latent))
        size = len(self.sentence)
        drawn = random.integers(0, max(size, 1), min(DRAWS * most, size))
        drawn = drawn[self._silent[drawn]]
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        if len(drawn) < most:  # it fires nearly everywhere, or the pool is small
            silent = np.flatnonzero(self._silent)
            drawn = random.permutation(silent)
        return drawn[:most]


def own_tokens(entries: Entries) -> dict[int, Tokens]:
    """The tokens that each latent of `entries` fires on most, by the sum of its values there."""
    latent = np.repeat(entries.latent, entries.length)
    order = np.lexsort((entries.token, latent))
    latent, token = latent[order], entries.token[order]
    first = np.flatnonzero(changes(latent) | changes(token))
    if not len(first):
        return {}
    strength = np.add.reduceat(entries.value[order], first, dtype=np.float64)
    latent, token = latent[first], token[first]
    strongest = np.lexsort((token, -strength, latent))
    latent, token, strength = latent[strongest], token[strongest], strength[strongest]
    kept = rank_within(latent) < TOKENS
    latent, token, strength = latent[kept], token[kept], strength[kept]
    starts = np.flatnonzero(changes(latent))
    return {
        int(latent[start]): Tokens(token[start:stop], strength[start:stop] / strength[start:stop].sum())
        for start, stop in zip(starts, np.append(starts[1:], len(latent)), strict=True)
    }


def _unique(row: NDArray[np.integer], column: NDArray[np.integer]) -> Pairs:
    """Each pair once."""
    key = torch.sort(torch.from_numpy(row.astype(np.int64) << 32 | column.astype(np.int64))).values.numpy()
    key = key[changes(key)]
    return Pairs((key >> 32).astype(np.int32), (key & 0xFFFFFFFF).astype(np.int32))


def _placed(pairs: list[Pairs], place: NDArray[np.int32]) -> Pairs:
    """The pairs whose sentences have a new place, there."""
    found = [Pairs(place[one.place], one.other) for one in pairs]
    kept = [Pairs(one.place[one.place >= 0], one.other[one.place >= 0]) for one in found]
    nothing = np.zeros(0, np.int32)
    return Pairs(
        np.concatenate([nothing, *(one.place for one in kept)]), np.concatenate([nothing, *(one.other for one in kept)])
    )


def _by_column(pairs: Pairs, rows: int, columns: int) -> csc_array:
    matrix = csc_array((np.ones(len(pairs.place), dtype=bool), pairs), shape=(rows, columns))
    matrix.sort_indices()
    return matrix


def _column(matrix: csc_array, number: int) -> NDArray[np.integer]:
    """The rows of a column, ascending."""
    return matrix.indices[matrix.indptr[number] : matrix.indptr[number + 1]]
