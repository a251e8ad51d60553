"""The training sentences in a random order, a batch of tokens at a time; any place in the order can be gone on from.

The order of an epoch depends on the seed and its number alone, a sentence's tokens on its text alone. Knows nothing of
language models but their tokenizer.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monosem.corpus import tokens
from monosem.corpus.sentences import Sentences
from monosem.errors import StoreError

WINDOW = 1024  # sentences that are read and tokenized at once


class Place(NamedTuple):
    """A place in the order, before a sentence."""

    epoch: int
    row: int


class Batch(NamedTuple):
    """Sentences that are long enough."""

    sentences: list[list[int]]
    """Token ids."""
    after: Place
    """The place behind the batch."""

    @property
    def n_tokens(self) -> int:
        """T."""
        return sum(map(len, self.sentences))


class Reader:
    """Batches of sentences.

    Args:
        numbers: of the sentences to read.
        max_tokens: where longer sentences are cut.
        batch_tokens: a batch ends with the sentence that reaches this many tokens.
        seed: decides the order.
        shortest: sentences of fewer tokens are left out; one that predicts something has two.
    """

    def __init__(
        self,
        source: Sentences,
        numbers: NDArray[np.int64],
        tokenizer: tokens.Encoder,
        max_tokens: int,
        batch_tokens: int,
        seed: int,
        shortest: int = 2,
    ) -> None:
        self._shortest = shortest
        self._source, self._numbers, self._tokenizer = source, numbers, tokenizer
        self._max_tokens, self._batch_tokens, self._seed = max_tokens, batch_tokens, seed

    def batches(self, start: Place) -> Iterator[Batch]:
        """Batches from a place on, for ever.

        Raises:
            StoreError: no sentence has two tokens.
        """
        sentences: list[list[int]] = []
        filled, fruitless = 0, 0
        epoch, row = start
        while True:
            fruitless += 1
            order = np.random.default_rng([self._seed, epoch]).permutation(self._numbers)
            for ids in self._encoded(order[row:]):
                row += 1
                if len(ids) < self._shortest:
                    continue
                sentences.append(ids)
                filled, fruitless = filled + len(ids), 0
                if filled >= self._batch_tokens:
                    yield Batch(sentences, Place(epoch, row))
                    sentences, filled = [], 0
            epoch, row = epoch + 1, 0
            if fruitless > 1:
                raise StoreError("no training sentence has two tokens or more; capture more sentences")

    def _encoded(self, numbers: NDArray[np.int64]) -> Iterator[list[int]]:
        for window in range(0, len(numbers), WINDOW):
            texts = self._source.take(numbers[window : window + WINDOW], ["text"])["text"].to_pylist()
            yield from tokens.encode(self._tokenizer, texts, self._max_tokens)
