"""A bounded sample of the store's sentences with every latent's value at every token: what n-grams are learnt from.

Flow: whole shards, spread evenly over the store, until there are enough sentences; their codes come from `codes/`, or
from any SAE that encodes the activations anew; then everything is sorted by latent. Knows nothing of explanations.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monosem.interpret.score.places import Ints, Places


class Codes(NamedTuple):
    """Active latents of R stored tokens; E of them in all."""

    sentence: Ints
    """[R] number over the whole corpus."""
    position: NDArray[np.int32]
    """[R] the token's place in its sentence."""
    active: NDArray[np.int32]
    """[R] how many latents are active."""
    latent: NDArray[np.integer]
    """[E]"""
    value: NDArray[np.float32]
    """[E]"""


class Firings(NamedTuple):
    """Where one latent fires in a sample."""

    place: Ints
    """Ascending."""
    value: NDArray[np.float32]


class Sample:
    """S sentences, ascending, with T tokens, and where each of n latents fires.

    Args:
        n: number of latents.
        sentence: [S] numbers over the whole corpus.
        ids: tokens of each sentence as the model read them.
        codes: of the tokens that the store holds, in pieces; those of other sentences are left out.
    """

    def __init__(self, n: int, sentence: Ints, ids: Sequence[Sequence[int]], codes: Iterator[Codes]) -> None:
        self.n, self.sentence = n, sentence
        offsets = np.append(0, np.cumsum([len(one) for one in ids])).astype(np.int64)
        self.places = Places(np.concatenate([np.zeros(0, np.int64), *map(np.asarray, ids)]), offsets)
        self.known = np.zeros(len(self.places), dtype=bool)
        """[T] which tokens the store holds: at the others, attention sinks mostly, no value is known."""
        self.of_place = np.repeat(np.arange(len(sentence)), np.diff(offsets))
        """[T] number in the sample of each token's sentence."""
        parts = [self._located(piece) for piece in codes]
        latent = torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)]))
        by_latent, order = torch.sort(latent, stable=True)
        self._offsets = np.searchsorted(by_latent.numpy(), np.arange(n + 1))
        self._place = np.concatenate([np.zeros(0, np.int32), *(part[1] for part in parts)])[order.numpy()]
        self._value = np.concatenate([np.zeros(0, np.float32), *(part[2] for part in parts)])[order.numpy()]

    def __len__(self) -> int:
        return len(self.sentence)

    def firings(self, latent: int) -> Firings:
        """Where a latent fires."""
        part = slice(*self._offsets[latent : latent + 2])
        return Firings(self._place[part].astype(np.int64), self._value[part])

    def counts(self) -> Ints:
        """[n] tokens that each latent fires on."""
        return np.diff(self._offsets)

    def _located(self, codes: Codes) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """Latents, places and values of a piece, by place."""
        number = np.minimum(np.searchsorted(self.sentence, codes.sentence), max(len(self.sentence) - 1, 0))
        inside = self.sentence[number] == codes.sentence if len(self.sentence) else np.zeros(len(number), bool)
        place = (self.places.offsets[number] + codes.position).astype(np.int32)
        self.known[place[inside]] = True
        kept = np.repeat(inside, codes.active) & (codes.value > 0)
        return codes.latent[kept].astype(np.int32), np.repeat(place, codes.active)[kept], codes.value[kept]


def evenly(size: int, count: int) -> Ints:
    """`count` of the numbers below `size`, all different, evenly spread; all of them where there are fewer."""
    count = min(size, count)
    return (np.arange(count) * size // max(count, 1)).astype(np.int64)
