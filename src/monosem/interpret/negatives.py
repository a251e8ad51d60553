"""Sentences in which a latent is silent: some that hold its own tokens all the same, some drawn at random.

Flow: `Pool.load` takes a sample of the sentences out of the codes, and turns it round: which sentences hold a token, in
which ones a latent fires. `own_tokens` says which tokens a latent fires on; `Pool.hard` and `Pool.random` look in the
sample. Memory is bounded by the sample. Knows nothing of text.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.draws import is_test, pool_order
from monosem.interpret.firings import changes, group
from monosem.interpret.ranking import Entries, highest, rank_within

TOKENS = 8  # of a latent that are looked for
BLOCK_ENTRIES = 1 << 21  # codes that are grouped at once
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


class Pool:
    """A sample of P sentences of one side of the test split, in random order, with the tokens and latents of each.

    Which latents fire is kept as bits: P / 8 bytes for each latent.

    Args:
        sentence: [P] their numbers.
        n: number of latents.
        seed: decides what is drawn.
    """

    def __init__(self, sentence: NDArray[np.int64], n: int, seed: int) -> None:
        self.sentence, self._seed = sentence, seed
        self._fires = np.zeros((n, -(-len(sentence) // 8)), dtype=np.uint8)
        self._places = np.argsort(sentence)
        self._pairs = [np.zeros(0, np.int64)]  # of token and place, until all are there
        self._offsets, self._holders = np.zeros(1, np.int64), np.zeros(0, np.int64)
        """Places of the sentences that hold token t: `_holders[_offsets[t]:_offsets[t + 1]]`."""

    @classmethod
    def load(cls, codes: StoredCodes, size: int, test_fraction: float, seed: int) -> tuple["Pool", "Pool"]:
        """Samples of about `size` sentences together: outside of the test set, and of the test set."""
        fraction = size / max(codes.sentences, 1)
        numbers = [codes.sentences_of(shard) for shard in codes.shards]
        drawn = [np.flatnonzero(pool_order(some, seed) < fraction) for some in numbers]
        sentence = np.concatenate([np.zeros(0, np.int64), *(some[i] for some, i in zip(numbers, drawn, strict=True))])
        sentence = sentence[np.argsort(pool_order(sentence, seed), kind="stable")]
        in_test = is_test(sentence, test_fraction, seed)
        train, test = cls(sentence[~in_test], codes.n, seed), cls(sentence[in_test], codes.n, seed)
        for shard, some, places in zip(codes.shards, numbers, drawn, strict=True):
            reserved = is_test(some[places], test_fraction, seed)
            for pool, mine in ((train, places[~reserved]), (test, places[reserved])):
                pool._add(codes.take(shard, mine))
        return train._settled(), test._settled()

    def _add(self, codes: Codes) -> None:
        """Take over codes of sentences of the pool."""
        place = self._places[np.searchsorted(self.sentence, codes.sentence, sorter=self._places)]
        self._pairs.append(np.unique(codes.token.astype(np.int64) << 32 | place[codes.ordinal()]))
        for block in codes.blocks(BLOCK_ENTRIES):
            firings = group(block)
            at = self._places[np.searchsorted(self.sentence, firings.sentence, sorter=self._places)]
            byte = firings.latent.astype(np.int64) * self._fires.shape[1] + (at >> 3)
            np.bitwise_or.at(self._fires.reshape(-1), byte, (0x80 >> (at & 7)).astype(np.uint8))

    def _settled(self) -> "Pool":
        """This pool, once all its sentences are there."""
        pairs = np.sort(np.concatenate(self._pairs))
        token, self._holders = pairs >> 32, pairs & 0xFFFFFFFF
        self._offsets = np.searchsorted(token, np.arange(2 + int(token.max(initial=0))))
        return self

    def negatives(self, latent: int, own: Tokens, most: int) -> tuple[Negatives, Negatives]:
        """Up to `most` hard ones, which hold the latent's tokens, and up to `most` others at random."""
        silent = np.unpackbits(self._fires[latent], count=len(self.sentence)) == 0
        share = np.where(silent, self._share(own), 0)
        hard = highest(share, most)
        silent[hard] = False
        drawn = self._random(latent, silent, most)
        return (
            Negatives(self.sentence[hard], share[hard].astype(np.float32)),
            Negatives(self.sentence[drawn], np.zeros(len(drawn), np.float32)),
        )

    def _share(self, own: Tokens) -> NDArray[np.float64]:
        """[P]: how much of the tokens each sentence holds; a rare one counts more."""
        size = len(self.sentence)
        known = own.token < len(self._offsets) - 1
        bounds = zip(self._offsets[own.token[known]], self._offsets[own.token[known] + 1], strict=True)
        holders = [self._holders[start:stop] for start, stop in bounds]
        weight = own.weight[known] * np.array([np.log((1 + size) / (1 + len(places))) for places in holders])
        share = np.zeros(size)
        for places, part in zip(holders, weight / max(weight.sum(), 1e-30), strict=True):
            share[places] += part
        return share

    def _random(self, latent: int, silent: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
        """Places of silent sentences, drawn evenly."""
        random = np.random.default_rng((self._seed, latent))
        drawn = random.integers(0, max(len(silent), 1), min(DRAWS * most, len(silent)))
        drawn = drawn[silent[drawn]]
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        if len(drawn) < most:  # it fires nearly everywhere, or the pool is small
            drawn = random.permutation(np.flatnonzero(silent))
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
