"""A bounded sample of the store's sentences with every latent's value at every token: what n-grams are learnt from.

Flow: sentences of files that are spread evenly over the store; their codes come from the stage `codes`, or from another
SAE that encodes the same activations; then everything is sorted by latent. Knows nothing of explanations.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from monosem.corpus import tokens
from monosem.corpus.sentences import Sentences
from monosem.interpret.codes import Codes, StoredCodes
from monosem.interpret.score.places import Ints, Places
from monosem.lm.tokenizer import Tokenizer
from monosem.run import Shard


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
        codes: of these sentences, in pieces, where the store holds anything of them.
    """

    def __init__(self, n: int, sentence: Ints, ids: Sequence[ArrayLike], codes: Iterator[Codes]) -> None:
        self.n, self.sentence = n, sentence
        of_sentence = [np.asarray(one, dtype=np.int64) for one in ids]
        offsets = np.append(0, np.cumsum([len(one) for one in of_sentence])).astype(np.int64)
        self.places = Places(np.concatenate([np.zeros(0, np.int64), *of_sentence]), offsets)
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

    def with_codes(self, n: int, codes: Iterator[Codes]) -> "Sample":
        """The same sentences with what another SAE makes of them."""
        bounds = self.places.offsets.tolist()
        ids = [self.places.ids[start:stop] for start, stop in pairwise(bounds)]
        return Sample(n, self.sentence, ids, codes)

    def counts(self) -> Ints:
        """[n] tokens that each latent fires on."""
        return np.diff(self._offsets)

    def _located(self, codes: Codes) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """Latents, places and values of a piece, by place."""
        number = np.searchsorted(self.sentence, codes.sentence)
        first = np.repeat(self.places.offsets[number], codes.length)
        place = (first + codes.position).astype(np.int32)
        self.known[place] = True
        fires = codes.value > 0
        return codes.latent[fires].astype(np.int32), np.repeat(place, codes.active)[fires], codes.value[fires]


def evenly(size: int, count: int) -> Ints:
    """`count` of the numbers below `size`, all different, evenly spread; all of them where there are fewer."""
    count = min(size, count)
    return (np.arange(count) * size // max(count, 1)).astype(np.int64)


def read(codes: StoredCodes, source: Sentences, tokenizer: Tokenizer, most: int, max_tokens: int) -> Sample:
    """A sample of at most `most` sentences with the codes of the stage `codes`.

    Args:
        max_tokens: of a sentence, that the model read.

    Raises:
        RunError: a file of codes is missing or damaged.
    """
    pieces = [codes.take(shard, which) for shard, which in plan(codes, most)]
    sentence = np.concatenate([np.zeros(0, np.int64), *(piece.sentence for piece in pieces)])
    texts = source.take(sentence, columns=["text"])["text"].to_pylist()
    return Sample(codes.n, sentence, tokens.encode(tokenizer, texts, max_tokens), iter(pieces))


def plan(codes: StoredCodes, most: int) -> list[tuple[Shard, Ints]]:
    """Files of a store, and of each the places of the sentences that are read: at most `most` in all.

    As few files as hold so many, so that little of a large store is touched.
    """
    shards = codes.shards
    wanted = -(-most * len(shards) // max(codes.sentences, 1))
    chosen = [shards[i] for i in evenly(len(shards), wanted)]
    there = [codes.sentences_of(shard) for shard in chosen]
    kept = evenly(sum(map(len, there)), most)
    first = np.cumsum([0, *map(len, there)])
    cuts = np.searchsorted(kept, first)
    places = [kept[a:b] - start for a, b, start in zip(cuts[:-1], cuts[1:], first[:-1], strict=True)]
    return list(zip(chosen, places, strict=True))
